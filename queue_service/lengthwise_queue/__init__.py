"""The queue service: the REST and OpenAI front end, and the store of jobs."""
