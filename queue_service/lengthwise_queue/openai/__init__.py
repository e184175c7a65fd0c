"""The OpenAI API. Begin with `routes.serve`; each endpoint is a module, listed in `registry`."""
