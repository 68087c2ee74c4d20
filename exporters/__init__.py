"""How a network becomes the files an app can use."""
