"""What rwkvquant, paper and readme share: each tensor gets a uniform grid (SQ) or a codebook (VQ)."""

from __future__ import annotations

from rwkvquant.errors import ConfigError
from rwkvquant.recipes.method import Option, Said, in_words
from rwkvquant.recipes.options import (
    BY_PROXIES,
    CHOICE,
    CLIP_SEARCH,
    COMMON,
    FALL_BACK,
    PAPER_STYLE,
    PERCENTILES,
    PROXY,
    THRESHOLDS,
)
from rwkvquant.recipes.recipe import Chooser
from rwkvquant.recipes.setting import Setting
from rwkvquant.selection.selectors import SELECTORS

NO_SHARE = tuple(choice for choice in CHOICE.allowed if choice != "share")  # it needs a budget, which the authors' methods do not have
OF_ALGORITHM1 = ("coarse_share", "fine_share", "order")
OF_FIXED = ("tau_c", "tau_f")
OF_SHARE = ("selector", "sq_share")


def authors_options(choice: str, *more: Option) -> tuple[Option, ...]:
    """The options of the paper and of its authors' command. Everything else in these two methods is fixed."""
    choices = Option("choice", NO_SHARE, CHOICE.help, choice)
    return (*more, PAPER_STYLE, choices, PROXY, *PERCENTILES, *THRESHOLDS, CLIP_SEARCH, FALL_BACK, *COMMON)


def chooser_of(said: Said) -> Chooser:
    """The rule that was said, without a budget. Raises ConfigError for an option that the rule does not use."""
    rule = said.choice
    if said.given("proxy") and rule not in BY_PROXIES:
        raise ConfigError(f"proxy goes with the choices {in_words(list(BY_PROXIES))}; the choice is {rule}")
    if rule == "share":
        return _by_share(said)
    if given := said.given(*OF_SHARE):
        raise ConfigError(f"{given[0]} goes with the choice share; the choice is {rule}")
    if (given := said.given(*OF_ALGORITHM1)) and rule != "algorithm1":
        raise ConfigError(f"{given[0]} goes with the choice algorithm1; the choice is {rule}")
    if (given := said.given(*OF_FIXED)) and rule != "fixed":
        raise ConfigError(f"{given[0]} goes with the choice fixed; the choice is {rule}")
    shares = float(said.coarse_share), float(said.fine_share)
    return Chooser(rule, said.proxy, *shares, order=said.order, tau_c=float(said.tau_c), tau_f=float(said.tau_f))


def _by_share(said: Said) -> Chooser:
    """Raises ConfigError for an option that the selector does not use."""
    selector = SELECTORS[said.selector]
    for name in said.given("proxy", *OF_ALGORITHM1, *OF_FIXED):
        if name not in selector.reads:
            raise ConfigError(f"{name} is not used by the selector {selector.name}; leave it out")
    coarse = float(said.coarse_share)
    return Chooser("share", said.proxy, coarse, order=said.order, selector=selector.name, sq_share=float(said.sq_share))


def refuse_order_of_codebooks(said: Said, candidates: tuple[Setting, ...]) -> None:
    """Raises ConfigError for act_order with the paper's codebooks: they take the columns from the first to the last."""
    if said.act_order and said.style == "paper" and any(setting.kind == "codebook" for setting in candidates):
        raise ConfigError("act_order goes with the style tuned; codebooks in the style of the paper have no order of columns")
