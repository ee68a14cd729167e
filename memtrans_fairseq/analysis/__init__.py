"""What memory does in a trained model: attention maps, numbers that sum them up, and lesions. Nothing here trains.

`probe` watches, and for lesions changes, what a model does while it is entered; `attention` makes maps of what it saw,
`blocks` and `patterns` numbers of maps, and `lesions` says what to change.
"""
