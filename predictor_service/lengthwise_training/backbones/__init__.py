"""The backbones: text encoders, their tokenizers, and hidden states of a served LLM.

Begin with `config` (which backbone, and how much of it) and `loading`, which makes a `tiny`,
`transformer` or `vectors` backbone. `hidden_states` collects the vectors. `pretrained` and
`tables` are the encoder and the compressed tables of the bundled model.
"""
