"""OpenAI's Responses API: requests become chat jobs, and answers become response objects."""
