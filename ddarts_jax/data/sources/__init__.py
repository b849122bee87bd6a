"""Sources of images, a module each; `table` lists them."""
