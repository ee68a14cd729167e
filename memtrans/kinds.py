"""Settings that are deleted, unknown, or of another kind than in configs/ are refused before anything starts."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from memtrans.errors import UserError, did_you_mean

OPTIONS = ("model.", "train.")  # fairseq's own: words may look like numbers, and a number may be a list for each epoch
# sections where who reads them says what more there may be
OPEN = ("model", "train", "corpus.splits", "corpus.files", "launcher.additional")
# null leaves an option out, checks no count of a published corpus, and is for `jobs` to judge in a protocol
NULLS = (*OPTIONS, "corpus.splits.", "protocol.")


def check_kinds(given: DictConfig, usual: DictConfig) -> None:
    """Refuse what `given` lacks, has besides, or has of another kind than `usual`, the same choices unchanged.

    A setting that is null or missing there may be anything here. Raises UserError.
    """
    try:
        values, usual_values = (OmegaConf.to_container(config, resolve=True) for config in (given, usual))
    except InterpolationResolutionError:  # of choices that do not go together, which is for others to say
        return
    _compare(values, usual_values)


def _compare(given: Any, usual: Any, path: str = "") -> None:
    if isinstance(usual, Mapping) and isinstance(given, Mapping):
        for key, value in usual.items():
            where = f"{path}.{key}" if path else str(key)
            if key not in given and path == "launcher.additional":
                continue  # an option of sbatch less
            if key not in given:
                raise UserError(f"~{where}: a setting cannot be deleted; give it a value (null leaves out an option)")
            _compare(given[key], value, where)
        if not path.startswith(OPEN) and (unknown := [str(key) for key in given if key not in usual]):
            where = f"{path}.{unknown[0]}" if path else unknown[0]
            raise UserError(f"+{where}: no such setting, nobody would read it; {did_you_mean(unknown[0], usual)}")
        return
    open_to_all = usual is None or usual == "???" or (given is None and path.startswith(NULLS))
    if not open_to_all and not _is_like(usual, given, path.startswith(OPTIONS)):
        raise UserError(f"{path}={given}: expected {_words(usual)}")


def _is_like(usual: Any, value: Any, option: bool) -> bool:
    match usual:
        case bool():
            return isinstance(value, bool)
        case int():
            return type(value) is int
        case float():
            values = value if option and isinstance(value, list) else [value]
            return all(type(item) in (int, float) for item in values)
        case str():
            return isinstance(value, str) or (option and type(value) in (int, float))
        case list():
            return isinstance(value, list) and all(_is_like(usual[0], item, option) for item in value if usual)
    return isinstance(value, Mapping) and isinstance(usual, Mapping)


def _words(usual: Any) -> str:
    match usual:
        case bool():
            return "true or false"
        case int():
            return f"a whole number, such as {usual}"
        case float():
            return f"a number, such as {usual}"
        case str():
            return f"text, such as {usual} (a number as text: \"'7'\")"
        case list():
            return f"a list, such as [{','.join(map(str, usual))}]" if usual else "a list"
    return f"several settings: {', '.join(usual)}"
