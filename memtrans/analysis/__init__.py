"""What memory does in a trained run: its attention, what becomes of it without parts of its memory, or with more.

`attention_record` and `lesion_record` say what is kept of it, beside the run's record; they import no torch, as the
report reads them.
"""
