"""Draws speeds of decode and prefill, of membrane and of its peers, from rows that `membrane bench --csv` wrote.

    python3 tests/bench/plot.py [--out FILE.svg] [FILE.csv ...]

Without files all of tests/bench/results are read. A bar is the median of the rows of the same model, memory, start, context and engine.
Each machine has a group of its own. The picture depends on the rows alone.
"""

import argparse
import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent
COLOURS = ["#2b6cb0", "#b7791f", "#6b7280", "#805ad5", "#2f855a"]
ROW, BAR, LABEL, WIDTH, GAP = 15, 11, 330, 230, 70


def read(paths):
    rows = []
    for path in paths:
        with open(path, newline="", encoding="utf-8") as file:
            rows.extend(csv.DictReader(file))
    return rows


def number(text):
    return float(text) if text else None


def engine(row):
    """The engine's name: of a path only the program's."""
    name = row["engine"]
    if name.startswith("llama-bench="):
        path = name.removeprefix("llama-bench=")
        return next((peer for peer in ("ik_llama.cpp", "llama.cpp") if peer in path), "llama-bench")
    return name


def case(row):
    memory = row["memory"]
    place = "in memory" if memory in ("auto", "none") else f"{memory} of memory"
    words = [row["model"].removesuffix(".gguf"), place]
    if row["start"] != "fresh":
        words.append(row["start"])
    if row["context_tokens"] not in ("", "0"):
        words.append(f"behind {row['context_tokens']} tokens")
    if row["sessions"] not in ("", "1"):
        words.append(f"{row['sessions']} sessions")
    return ", ".join(words)


def machine(row):
    gib = round(int(row["machine_memory_bytes"]) / 2**30)
    return f"{row['processor']}, {row['threads']} threads, {gib} GiB"


def ceiling(row):
    """Tokens a second that memory and, of what was read, the disk allow; none where they were not measured."""
    limits = []
    if number(row["memory_ceiling_gb_s"]):
        limits.append(number(row["memory_ceiling_gb_s"]) * 1e9 / number(row["weight_bytes_per_token"]))
    if number(row["disk_ceiling_gb_s"]) and number(row["disk_bytes_per_token"]):
        limits.append(number(row["disk_ceiling_gb_s"]) * 1e9 / number(row["disk_bytes_per_token"]))
    return min(limits) if limits else None


def collect(rows):
    """machine -> case -> engine -> (prefill, decode, ceiling of decode), medians."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        ours = row["engine"] == "membrane"
        values = (number(row["prefill_tok_s"]), number(row["decode_tok_s"]), ceiling(row) if ours else None)
        found[machine(row)][case(row)][engine(row)].append(values)

    def median(values):
        there = [value for value in values if value is not None]
        return statistics.median(there) if there else None

    return {
        where: {
            what: {name: tuple(map(median, zip(*runs))) for name, runs in engines.items()}
            for what, engines in cases.items()
        }
        for where, cases in found.items()
    }


class Picture:
    def __init__(self):
        self.parts, self.y = [], 24

    def text(self, x, text, extra=""):
        self.parts.append(f'<text x="{x}" y="{self.y}"{extra}>{escape(text)}</text>')

    def bar(self, x, share, colour, value):
        top = self.y - BAR + 1
        self.parts.append(f'<rect x="{x}" y="{top}" width="{max(share * WIDTH, 1):.1f}" height="{BAR}" fill="{colour}"/>')
        self.text(round(x + share * WIDTH + 5, 1), f"{value:.3g}")

    def mark(self, x, share):
        at = f"{x + share * WIDTH:.1f}"
        self.parts.append(
            f'<line x1="{at}" x2="{at}" y1="{self.y - BAR}" y2="{self.y + 2}" stroke="#c53030" stroke-width="2"/>'
        )

    def svg(self):
        width, height = LABEL + 2 * (WIDTH + GAP), self.y + 8
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"


def draw(collected):
    picture = Picture()
    names = {name for cases in collected.values() for engines in cases.values() for name in engines}
    order = ["membrane", *sorted(names - {"membrane"})]
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(order)}
    decode_x, prefill_x = LABEL, LABEL + WIDTH + GAP
    for where, cases in sorted(collected.items()):
        picture.text(8, where, ' font-weight="bold"')
        picture.text(decode_x, "decode, tokens a second", ' font-weight="bold"')
        picture.text(prefill_x, "prefill, tokens a second", ' font-weight="bold"')
        picture.y += ROW + 3
        for what, engines in sorted(cases.items()):
            picture.text(8, what)
            picture.y += ROW
            decodes = [value for run in engines.values() for value in run[1:] if value]
            prefills = [run[0] for run in engines.values() if run[0]]
            for name in (name for name in order if name in engines):
                prefill, decode, limit = engines[name]
                picture.text(24, name)
                picture.bar(decode_x, decode / max(decodes), colours[name], decode)
                if limit:
                    picture.mark(decode_x, limit / max(decodes))
                if prefill:
                    picture.bar(prefill_x, prefill / max(prefills), colours[name], prefill)
                picture.y += ROW
            picture.y += 5
        picture.y += 8
    picture.text(8, "red: what the measured bandwidth of memory, and of the disk for what was read, allows", ' fill="#c53030"')
    return picture.svg()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.csv")
    parser.add_argument("--out", type=Path, default=FOLDER / "results.svg", metavar="FILE.svg")
    args = parser.parse_args()
    files = args.files or sorted((FOLDER / "results").glob("*.csv"))
    rows = read(files)
    if not rows:
        sys.exit("there are no rows")
    args.out.write_text(draw(collect(rows)), encoding="utf-8")


main()
