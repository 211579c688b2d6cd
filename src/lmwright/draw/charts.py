"""Charts as inline SVG: small, without scripts, with hover titles; colours come from the page.

A chart with words is drawn for a width of about 400 pixels, so that it stands in columns on a wide
page and fills a telephone; a strip (a dot with its interval, a bar) has no words and stretches to
the cell of a table. Texts are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 22.0, 34.0

Interval = Mapping[str, float | None]


@dataclass(frozen=True)
class Line:
    """One series: points (x, y) in order, its name and its style (a CSS class)."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "s1"
    dots: bool = False
    titles: Sequence[str] = ()
    loud: Sequence[bool] = ()


@dataclass
class Frame:
    """The plane of a chart: what is drawn lies in x and y from ``low`` to ``high``."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = HEIGHT
    parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the plane in the units of the drawing."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            self.height - BOTTOM - up * (self.height - TOP - BOTTOM),
        )

    def grid(self, x_label: str, y_label: str, x_whole: bool = False) -> None:
        """Ticks, faint lines and the names of both axes."""
        for value in ticks(*self.y, 4):
            across, up = self.at(self.x[0], value)
            self.parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up:.1f}" y2="{up:.1f}"/>'
                f'<text class="tick" x="{LEFT - 6}" y="{up + 3.5:.1f}" text-anchor="end">'
                f"{short(value)}</text>"
            )
        for value in ticks(*self.x, 5):
            if x_whole and value != int(value):
                continue
            across, _ = self.at(value, self.y[0])
            self.parts.append(
                f'<text class="tick" x="{across:.1f}" y="{self.height - BOTTOM + 14}" '
                f'text-anchor="middle">{short(value)}</text>'
            )
        self.word(WIDTH - RIGHT, self.height - 4, x_label, "axis", "end")
        self.word(2, 9, y_label, "axis")

    def word(self, x: float, y: float, text: str, style: str, anchor: str = "start") -> None:
        """A word at a place of the drawing."""
        self.parts.append(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def markup(self, title: str) -> Markup:
        """The whole drawing."""
        return drawing(WIDTH, self.height, self.parts, title)


def drawing(width: float, height: float, parts: Sequence[str], title: str) -> Markup:
    """An SVG element that scales with its column."""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def lines(
    series: Sequence[Line],
    title: str,
    x_label: str,
    y_label: str,
    limits: Sequence[tuple[float, float, float]] = (),
    marks: Sequence[tuple[float, str]] = (),
    height: float = HEIGHT,
) -> Markup:
    """Series over x, with ``limits`` across (from x, to x, value) and ``marks`` down (x, name)."""
    points = [point for each in series for point in each.points]
    if not points:
        return Markup("")
    ys = [y for _, y in points] + [value for _, _, value in limits]
    xs = [x for x, _ in points]
    frame = Frame((min(xs), max(xs)), padded(min(ys), max(ys)), height)
    frame.grid(x_label, y_label, x_whole=True)
    for x, name in marks:
        across, up = frame.at(x, frame.y[1])
        bottom = height - BOTTOM
        frame.parts.append(
            f'<line class="mark" x1="{across:.1f}" x2="{across:.1f}" y1="{up:.1f}" '
            f'y2="{bottom:.1f}"><title>{escape(name)}</title></line>'
        )
        right = across > WIDTH * 0.7
        frame.word(across + (-4 if right else 4), up + 8, name, "note", "end" if right else "start")
    for first, last, value in limits:
        begin, up = frame.at(max(first, frame.x[0]), value)
        end, _ = frame.at(min(last, frame.x[1]), value)
        frame.parts.append(
            f'<line class="limit" x1="{begin:.1f}" x2="{end:.1f}" y1="{up:.1f}" y2="{up:.1f}">'
            f"<title>limit {value:.2f}</title></line>"
        )
    for each in series:
        draw_line(frame, each)
    for first, _, value in limits:  # words last, so that no line crosses them
        begin, up = frame.at(max(first, frame.x[0]), value)
        frame.word(begin + 4, up + 12, f"limit {value:.2f}", "note")
    return frame.markup(title)


def draw_line(frame: Frame, line: Line) -> None:
    """One series, and a dot a point where asked; a loud dot is filled in the colour of alarm."""
    places = [frame.at(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    frame.parts.append(
        f'<polyline class="line {line.style}" points="{path}"><title>{escape(line.name)}</title>'
        "</polyline>"
    )
    if not line.dots:
        return
    for number, (x, y) in enumerate(places):
        loud = " loud" if line.loud and line.loud[number] else ""
        told = line.titles[number] if line.titles else f"{line.name}: {line.points[number][1]:.4g}"
        frame.parts.append(
            f'<circle class="dot {line.style}{loud}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{3.4 if loud else 2.6}"><title>{escape(told)}</title></circle>'
        )


def strip(
    value: Interval,
    low: float,
    high: float,
    title: str,
    style: str = "s1",
    rules: Sequence[float] = (),
    truth: float | None = None,
) -> Markup:
    """A dot with its interval on the range from ``low`` to ``high``; stretches to its cell.

    ``rules`` are values marked by a line down; ``truth`` is one more dot, hollow.
    """
    parts = [
        f'<line class="rule" x1="{at:.2f}" x2="{at:.2f}" y1="0" y2="20"/>'
        for at in (percent(rule, low, high) for rule in rules)
        if -0.5 <= at <= 100.5
    ]
    ends = [value.get(name) for name in ("low", "high", "estimate")]
    if ends[0] is not None and ends[1] is not None:
        first, last = (percent(end, low, high) for end in (ends[0], ends[1]))
        parts.append(
            f'<line class="whisker {style}" x1="{first:.2f}" x2="{last:.2f}" y1="10" y2="10"/>'
        )
    if ends[2] is not None:
        parts.append(point(percent(ends[2], low, high), f"pin {style}"))
    if truth is not None:
        parts.append(point(percent(truth, low, high), "pin truth"))
    return Markup(
        f'<svg class="strip" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<rect width="100" height="20" fill="transparent"/>{"".join(parts)}</svg>'
    )


def point(across: float, style: str) -> str:
    """A dot that stays round however its strip is stretched: a line of no length, round ends."""
    place = min(max(across, 0.0), 100.0)
    return f'<line class="{style}" x1="{place:.2f}" x2="{place:.2f}" y1="10" y2="10"/>'


def bar(share: float, title: str, style: str = "s1") -> Markup:
    """A bar that fills ``share`` of its cell."""
    wide = 100 * min(max(share, 0.0), 1.0)
    return Markup(
        f'<svg class="strip" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<rect class="trough" y="6" width="100" height="8"/>'
        f'<rect class="bar {style}" y="6" width="{wide:.2f}" height="8"/></svg>'
    )


def columns(values: Sequence[tuple[str, float]], title: str, x_label: str, y_label: str) -> Markup:
    """Counts side by side, each under its name."""
    most = max((value for _, value in values), default=0.0) or 1.0
    frame = Frame((0.0, float(len(values))), (0.0, most * 1.05), 190.0)
    for value in ticks(0, most, 3):
        _, up = frame.at(0, value)
        frame.parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up:.1f}" y2="{up:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{up + 3.5:.1f}" text-anchor="end">'
            f"{short(value)}</text>"
        )
    for place, (name, value) in enumerate(values):
        x, y = frame.at(place + 0.14, value)
        right, floor = frame.at(place + 0.86, 0)
        frame.parts.append(
            f'<rect class="bar s1" x="{x:.1f}" y="{y:.1f}" width="{right - x:.1f}" '
            f'height="{max(floor - y, 0.6):.1f}" rx="1.5">'
            f"<title>{escape(name)}: {value:g}</title></rect>"
        )
        if len(values) <= 14 or place % 2 == 0:
            frame.word((x + right) / 2, 190 - BOTTOM + 14, name, "tick", "middle")
    frame.word(WIDTH - RIGHT, 186, x_label, "axis", "end")
    frame.word(2, 9, y_label, "axis")
    return frame.markup(title)


def confusion(table: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> Markup:
    """A table of truth (down) against answers (across); darker is a larger share of the truth."""
    size = max(len(labels), 1)
    cell = min(96.0, 300.0 / size)
    left, top = 104.0, 40.0
    parts = []
    for row, counts in enumerate(table):
        whole = sum(counts) or 1
        y = top + row * cell
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + cell / 2 + 4:.1f}" text-anchor="end">'
            f"{escape(clipped(labels[row], 15))}</text>"
        )
        for column, count in enumerate(counts):
            share = count / whole
            x = left + column * cell
            told = f"truth {labels[row]}, answer {labels[column]}: {count} ({share:.1%} of them)"
            style = "right" if row == column else "wrong"
            parts.append(
                f'<g><title>{escape(told)}</title><rect class="cell {style}" x="{x + 1:.1f}" '
                f'y="{y + 1:.1f}" width="{cell - 2:.1f}" height="{cell - 2:.1f}" rx="4" '
                f'fill-opacity="{0.06 + 0.8 * share:.3f}"/>'
            )
            if cell >= 30:
                loud = " over" if share > 0.55 else ""
                middle = f'x="{x + cell / 2:.1f}" text-anchor="middle"'
                parts.append(
                    f'<text class="count{loud}" {middle} y="{y + cell / 2 + 1:.1f}">{count}</text>'
                    f'<text class="tick{loud}" {middle} y="{y + cell / 2 + 16:.1f}">'
                    f"{share:.0%}</text>"
                )
            parts.append("</g>")
    for column, label in enumerate(labels):
        x = left + (column + 0.5) * cell
        words = escape(clipped(label, max(3, int(cell / 6.5))))
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{top - 8}" text-anchor="middle">{words}</text>'
        )
    parts.append(f'<text class="axis" x="{left}" y="12">answer →</text>')
    parts.append(f'<text class="axis" x="2" y="{top - 8}">truth ↓</text>')
    return drawing(WIDTH, top + size * cell + 8, parts, title)


def reliability(bins: Sequence[Mapping[str, float]], title: str) -> Markup:
    """Share right against stated confidence with its interval; on the diagonal both agree."""
    if not bins:
        return Markup("")
    low = min(min(b["confidence"], b["low"]) for b in bins)
    frame = Frame((max(0.0, low - 0.03), 1.0), (max(0.0, low - 0.03), 1.0), 300.0)
    frame.grid("stated confidence", "share right")
    (x1, y1), (x2, y2) = frame.at(frame.x[0], frame.x[0]), frame.at(1, 1)
    frame.parts.append(
        f'<line class="mark" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
    )
    for each in bins:
        x, y = frame.at(each["confidence"], each["right"])
        _, low_y = frame.at(0, max(each["low"], frame.y[0]))
        _, high_y = frame.at(0, each["high"])
        told = (
            f"{each['rows']:.0f} rows: stated {each['confidence']:.1%}, right {each['right']:.1%} "
            f"[{each['low']:.1%}, {each['high']:.1%}]"
        )
        frame.parts.append(
            f'<g><title>{escape(told)}</title><line class="line s1" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{low_y:.1f}" y2="{high_y:.1f}"/>'
            f'<circle class="dot s1" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/></g>'
        )
    return frame.markup(title)


@dataclass(frozen=True)
class Node:
    """A box of a graph: its words, its style (a CSS class) and what it says when pointed at."""

    key: str
    label: str
    below: str = ""
    style: str = "artifact"
    title: str = ""


BOX, TALL, STEP, GAP, LANE = 128.0, 36.0, 66.0, 14.0, 8.0


def graph(nodes: Sequence[Node], edges: Sequence[tuple[str, str]], title: str) -> Markup:
    """A directed graph without cycles, from top to bottom.

    Ranks by the longest path; edges over several ranks pass through lanes, one for all edges that
    leave the same box; ranks are ordered by the mean place of their neighbours, swept down and up
    (Sugiyama, Tagawa and Toda 1981).
    """
    known = {node.key: node for node in nodes}
    links = [(a, b) for a, b in dict.fromkeys(edges) if a in known and b in known and a != b]
    rank = ranks(list(known), links)
    layers: list[list[str]] = [[] for _ in range(max(rank.values(), default=0) + 1)]
    for key in known:
        layers[rank[key]].append(key)
    chains = []
    for start, end in links:
        lanes = [f"\x00{start} {level}" for level in range(rank[start] + 1, rank[end])]
        for lane, level in zip(lanes, range(rank[start] + 1, rank[end]), strict=True):
            if lane not in layers[level]:
                layers[level].append(lane)
        chains.append([start, *lanes, end])
    ordered = untangled(layers, chains)
    places, width = laid_out(ordered, known, chains)
    height = len(ordered) * STEP - (STEP - TALL) + 12
    parts = [drawn_chain(chain, places, known) for chain in chains]
    parts += [drawn_node(node, *places[node.key]) for node in nodes]
    return Markup(
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'style="max-width:{width * 1.15:.0f}px;min-width:{width * 0.62:.0f}px" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def ranks(keys: Sequence[str], links: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Key -> length of the longest path to it; a key with nothing above stands just above its
    first reader.
    """
    rank = dict.fromkeys(keys, 0)
    for _ in keys:
        moved = False
        for start, end in links:
            if rank[end] <= rank[start]:
                rank[end], moved = rank[start] + 1, True
        if not moved:
            break
    ended = {end for _, end in links}
    for key in keys:
        readers = [rank[end] for start, end in links if start == key]
        if key not in ended and readers:
            rank[key] = min(readers) - 1
    return rank


def untangled(layers: list[list[str]], chains: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each layer in the order of its neighbours' mean place, a few sweeps down and up."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for chain in chains:
        for start, end in pairwise(chain):
            below.setdefault(start, []).append(end)
            above.setdefault(end, []).append(start)
    for sweep in range(8):
        down = sweep % 2 == 0
        order = range(1, len(layers)) if down else range(len(layers) - 2, -1, -1)
        near = above if down else below
        for level in order:
            beside = layers[level - 1 if down else level + 1]
            place = {key: number / max(len(beside) - 1, 1) for number, key in enumerate(beside)}
            mine = {key: n / max(len(layers[level]) - 1, 1) for n, key in enumerate(layers[level])}

            def mean(
                key: str,
                near: dict[str, list[str]] = near,
                place: dict[str, float] = place,
                mine: dict[str, float] = mine,
            ) -> float:
                found = [place[other] for other in near.get(key, []) if other in place]
                return sum(found) / len(found) if found else mine[key]

            layers[level] = sorted(layers[level], key=mean)
    return layers


def laid_out(
    layers: Sequence[Sequence[str]], known: Mapping[str, Node], chains: Sequence[Sequence[str]]
) -> tuple[dict[str, tuple[float, float]], float]:
    """Key -> middle of its box; and the width of the drawing. Lanes are narrow.

    Boxes are drawn to the mean of their neighbours as far as their order and widths allow.
    """
    near: dict[str, list[str]] = {}
    for chain in chains:
        for start, end in pairwise(chain):
            near.setdefault(start, []).append(end)
            near.setdefault(end, []).append(start)
    wide = {key: (BOX if key in known else LANE) + GAP for layer in layers for key in layer}
    total = max((sum(wide[key] for key in layer) for layer in layers), default=BOX)
    x: dict[str, float] = {}
    for layer in layers:
        left = (total - sum(wide[key] for key in layer)) / 2
        for key in layer:
            x[key] = left + wide[key] / 2
            left += wide[key]
    for sweep in range(12):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wanted = {
                key: sum(x[o] for o in near[key]) / len(near[key]) if near.get(key) else x[key]
                for key in layer
            }
            spread(layer, wanted, wide, total, x)
    places = {
        key: (x[key] + 4, 6 + TALL / 2 + level * STEP)
        for level, layer in enumerate(layers)
        for key in layer
    }
    return places, total + 8


def spread(
    layer: Sequence[str],
    wanted: Mapping[str, float],
    wide: Mapping[str, float],
    total: float,
    x: dict[str, float],
) -> None:
    """Put a layer's boxes as near to where they want to be as order and widths allow."""
    edge = 0.0
    for key in layer:  # from the left: nothing overlaps
        x[key] = max(wanted[key], edge + wide[key] / 2)
        edge = x[key] + wide[key] / 2
    edge = total
    for key in reversed(layer):  # from the right: nothing leaves the drawing
        x[key] = min(x[key], edge - wide[key] / 2)
        edge = x[key] - wide[key] / 2


def drawn_chain(
    chain: Sequence[str], places: Mapping[str, tuple[float, float]], known: Mapping[str, Node]
) -> str:
    """An edge as one smooth line through its lanes, leaving and arriving vertically."""
    path = ""
    for number, (start, end) in enumerate(pairwise(chain)):
        (x1, y1), (x2, y2) = places[start], places[end]
        y1 += TALL / 2 if start in known else 0
        y2 -= TALL / 2 if end in known else 0
        middle = (y1 + y2) / 2
        path += f"M{x1:.1f},{y1:.1f}" if number == 0 else ""
        path += f"C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}"
    told = escape(f"{known[chain[0]].label} → {known[chain[-1]].label}")
    return f'<path class="edge" d="{path}"><title>{told}</title></path>'


def drawn_node(node: Node, x: float, y: float) -> str:
    """A box with one or two lines of words."""
    round_ = TALL / 2 if node.style == "stage" else 5
    first = y + 4 if not node.below else y - 2
    words = f'<text x="{x:.1f}" y="{first:.1f}">{escape(clipped(node.label, 18))}</text>'
    if node.below:
        words += (
            f'<text class="tick" x="{x:.1f}" y="{y + 11:.1f}">'
            f"{escape(clipped(node.below, 20))}</text>"
        )
    return (
        f'<g class="node {node.style}"><title>{escape(node.title or node.label)}</title>'
        f'<rect x="{x - BOX / 2:.1f}" y="{y - TALL / 2:.1f}" width="{BOX}" height="{TALL}" '
        f'rx="{round_}"/>{words}</g>'
    )


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, int(high / step + 1e-9) + 1)]


def padded(low: float, high: float) -> tuple[float, float]:
    """A range a little wider than its values, from 0 where that is near."""
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    floor = 0.0 if 0 <= low < 0.25 * high else low - room
    return floor, high + room


def percent(value: float, low: float, high: float) -> float:
    """Where a value lies between low (0) and high (100)."""
    return 100 * (value - low) / ((high - low) or 1.0)


def short(value: float) -> str:
    """A number for a tick."""
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:g}"


def clipped(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
