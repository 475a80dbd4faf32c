"""Policies: Hugging Face folders named by their content, and the pointers that publish them."""
