"""Model sizes, defined once. The `--arch <model>_<size>` names and the harness's `size=<size>` both read this table.

Keys are fairseq's own option names. Importing this file costs nothing: no torch, no fairseq.
"""

BASE = {
    "encoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
    "encoder_attention_heads": 8,
    "encoder_layers": 6,
    "decoder_embed_dim": 512,
    "decoder_ffn_embed_dim": 2048,
    "decoder_attention_heads": 8,
    "decoder_layers": 6,
}

PRESETS: dict[str, dict[str, int]] = {
    # the embedded demo: trains in under a minute on one CPU core
    "demo": {
        "encoder_embed_dim": 64,
        "encoder_ffn_embed_dim": 256,
        "encoder_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_embed_dim": 64,
        "decoder_ffn_embed_dim": 256,
        "decoder_attention_heads": 4,
        "decoder_layers": 2,
    },
    # the paper's small models are 4+4 layers; their widths are not known here, so they are base's
    "small": BASE | {"encoder_layers": 4, "decoder_layers": 4},
    # the paper's base models (Vaswani et al. 2017, base)
    "base": BASE,
    # fairseq's transformer_iwslt_de_en, for corpora of some ten thousand to a few hundred thousand pairs
    "iwslt_de_en": BASE
    | {
        "encoder_ffn_embed_dim": 1024,
        "encoder_attention_heads": 4,
        "decoder_ffn_embed_dim": 1024,
        "decoder_attention_heads": 4,
    },
}
