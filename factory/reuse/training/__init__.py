"""Training of what was reassembled, with torch (extra 'train')."""
