"""Rows of measured lengths: collect them, read them, describe them, lay them out.

Begin with `rows`, which reads and checks a file. `examples` lays rows out for `lengthwise train`
and deals them into folds (`splits`). `collect` samples an LLM through `chat_client` and writes a
`row_file`. `characterize` describes lengths, `chat_export` writes them as chats, and `sources`
lists the known sources and their licences.
"""
