"""Reading, costing, cutting and renormalizing ONNX graphs; knows no task and no device."""
