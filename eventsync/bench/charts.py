"""Charts for reports: bars in an SVG that needs nothing from elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

_COLOURS = ("#1f6f8b", "#e07a3f", "#5b8c5a", "#8e6c8a", "#c9a227", "#6b7280")
_HEIGHT_PX = 480
_WIDTH_PX = 900


def bars(title: str, groups: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Draw bars side by side, one group of them for each key of `groups`, one colour for each series within.

    A series that a group lacks has no bar there. Returns an SVG document.
    """
    import pygal  # noqa: PLC0415  # 2 MB that no other command needs
    from pygal.style import Style  # noqa: PLC0415  # as above

    _keep_imports_as_they_were(pygal.PluginImportFixer)
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    chart = pygal.Bar(
        style=Style(background="white", plot_background="white", font_family="sans-serif", colors=_COLOURS),
        title=title,
        y_title=unit,
        print_values=True,
        print_values_position="top",
        value_formatter=_short,
        legend_at_bottom=True,
        explicit_size=True,
        width=_WIDTH_PX,
        height=_HEIGHT_PX,
        include_x_axis=True,
        no_data_text="nothing was measured",
    )
    chart.add_xml_filter(_without_scripts)
    chart.x_labels = list(groups)
    for name in series:
        chart.add(name, [group.get(name) for group in groups.values()])
    document: str = chart.render(is_unicode=True)
    return document


def _without_scripts(svg: Any) -> Any:
    """Take the scripts away: one would be fetched from elsewhere, and a picture needs none."""
    for parent in svg.iter():
        for script in [child for child in parent if str(child.tag).endswith("script")]:
            parent.remove(script)
    return svg


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def _keep_imports_as_they_were(finder: type) -> None:
    """Take pygal's hook for its plug-ins out of the imports again: it is of a kind that Python no longer asks."""
    sys.meta_path[:] = [known for known in sys.meta_path if not isinstance(known, finder)]
