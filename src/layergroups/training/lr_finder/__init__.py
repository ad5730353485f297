"""lr_finder."""
