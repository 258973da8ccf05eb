"""What rwkvquant, paper and readme share: each tensor gets a uniform grid (SQ) or a codebook (VQ)."""

from __future__ import annotations

from rwkvquant.errors import ConfigError
from rwkvquant.recipes.method import Option, Said
from rwkvquant.recipes.options import (
    BY_PROXIES,
    CHOICE,
    CLIP_SEARCH,
    COMMON,
    FALL_BACK,
    PAPER_STYLE,
    PROXY,
)
from rwkvquant.recipes.setting import Setting


def authors_options(choice: str, *more: Option) -> tuple[Option, ...]:
    """The options of the paper and of its authors' command. Everything else in these two methods is fixed."""
    return (*more, PAPER_STYLE, Option("choice", CHOICE.allowed, CHOICE.help, choice), PROXY, CLIP_SEARCH, FALL_BACK, *COMMON)


def rule_of(said: Said) -> tuple[str, str]:
    """The choice and its proxy. Raises ConfigError for a proxy that the choice does not use."""
    if said.given("proxy") and said.choice not in BY_PROXIES:
        raise ConfigError(f"proxy goes with the choices {' and '.join(BY_PROXIES)}; the choice is {said.choice}")
    return said.choice, said.proxy


def refuse_order_of_codebooks(said: Said, candidates: tuple[Setting, ...]) -> None:
    """Raises ConfigError for act_order with the paper's codebooks: they take the columns from the first to the last."""
    if said.act_order and said.style == "paper" and any(setting.kind == "codebook" for setting in candidates):
        raise ConfigError("act_order goes with the style tuned; codebooks in the style of the paper have no order of columns")
