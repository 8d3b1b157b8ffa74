"""The fault harness: breaks running systems wherever they can be broken, and counts the damage."""
