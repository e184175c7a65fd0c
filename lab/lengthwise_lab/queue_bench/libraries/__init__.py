"""One module a library; see library.py for what each has to offer."""
