"""Training without padding: the sentences of a batch lie one after another in one long row.

Of an ordinary batch about a fifth is padding, which costs as much as words do. Here a batch is flat tensors,
attention keeps sentences apart by where they begin and end, and every batch has the same shape, so that one graph,
compiled for a GPU, serves all. What is computed for a sentence is what the padded model computes.

`batches` makes such batches of a corpus, `attention` and `rows` are attention and the contract of variants over them,
`forward` takes a translation model's modules through them to the loss.
"""
