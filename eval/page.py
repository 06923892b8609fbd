"""The pages: HTML that needs nothing but itself, on a screen, a phone or paper."""

import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.axes import percent
from eval.svg import draw


def render_page(template: str, **values: object) -> str:
    """A page by the name of its template; what comes from data is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "decimal": decimal,
        "thousands": "{:,}".format,
        "percent": percent,
        "signed": signed_decimal,
        "draw": draw,
    }
    return environment.get_template(template).render(**values)


def decimal(value: float, digits: int) -> str:
    """A number for people; a dash where there is none."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.{digits}f}".replace("inf", "∞")


def signed_decimal(value: float, digits: int) -> str:
    """A difference for people, with its sign; a dash where there is none."""
    text = decimal(value, digits).replace("-", "\N{MINUS SIGN}")
    return f"+{text}" if value > 0 else text


def without_nan(record: dict[str, object]) -> dict[str, object]:
    """Strict JSON has no NaN: null in its place."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
