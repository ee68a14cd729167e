"""The report: what the records say of the paper, on one page that needs no network, in Markdown, and as LaTeX tables.

    findings   what is said: tables, intervals, verdicts, gathered from a folder of results
    grids      the same as tables of text;  figures: as drawings;  attention: what memory does, where it was looked at
    page       the HTML page;  texts: Markdown and LaTeX

Made from `results/` and `configs/` alone: no corpus, no checkpoint, no torch.
"""
