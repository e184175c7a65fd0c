"""The queue service: the jobs API and the OpenAI API in front of the store of jobs."""
