"""Draws speeds of decode and prefill, of membrane and of its peers, from rows that `membrane bench --csv` wrote.

    python3 tests/bench/plot.py [--out FILE.svg] [FILE.csv ...]

Without files all of tests/bench/results are read. A bar is the median of the rows of the same model, memory, start, context, prompt,
decode, sessions, engine, instruction set and flags. Each machine, with as many threads, has a group of its own. The picture depends on the
rows alone.
"""

import argparse
import csv
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent
COLOURS = ["#2b6cb0", "#b7791f", "#6b7280", "#805ad5", "#2f855a"]
ROW, BAR, LABEL, WIDTH, GAP = 15, 11, 330, 230, 70


# Flags that say what a column says too; each has a value.
IN_COLUMNS = {"--prompt", "--decode", "--sessions", "--threads", "--isa"}
# What a row must have for its bar.
WANTED = ["model", "engine", "processor", "threads", "memory", "start", "prompt_tokens", "decode_tokens", "decode_tok_s"]


class Unreadable(Exception):
    """A row that is none; says the file and the line."""


def read(paths):
    rows = []
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                for row in reader:
                    rows.append(checked(row, f"{path}:{reader.line_num}"))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise Unreadable(f"{path}: {error}") from error
    return rows


def checked(row, where):
    """The row, if everything that is drawn of it can be read."""
    if None in row or None in row.values():
        raise Unreadable(f"{where}: has not as many cells as the header has columns")
    missing = [column for column in WANTED if not row.get(column)]
    if missing:
        raise Unreadable(f"{where}: has no {missing[0]}")
    try:
        values = [row["prefill_tok_s"], row["decode_tok_s"], row["disk_bytes_per_token"], row["machine_memory_bytes"]]
        numbers = [number(value) for value in values]
        if not all(value is None or (math.isfinite(value) and value >= 0) for value in numbers) or not numbers[1]:
            raise ValueError("a speed or size is not a positive number")
        ceiling(row), case(row, False), label(row), machine(row)
    except (KeyError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise Unreadable(f"{where}: can't be read: {error!r}") from error
    return row


def number(text):
    return float(text) if text else None


def engine(row):
    """The engine's name: of a path only the program's."""
    name = row["engine"]
    if name.startswith("llama-bench="):
        path = name.removeprefix("llama-bench=")
        return next((peer for peer in ("ik_llama.cpp", "llama.cpp") if peer in path), "llama-bench")
    return name


def flags(row):
    """Flags that no column says."""
    kept, words = [], iter(row["flags"].split())
    for word in words:
        name, joined, _ = word.partition("=")
        if name not in IN_COLUMNS:
            kept.append(word)
        elif not joined:
            next(words, None)
    return " ".join(kept)


def label(row):
    """What a bar is of: engine, instruction set, flags."""
    program = " (llama-bench)" if row["engine"].startswith("llama-bench=") else ""
    return ", ".join(word for word in (engine(row) + program, row["instruction_set"], flags(row)) if word)


def setting(row):
    """What rows of a case share, whichever their engine."""
    columns = ("model", "model_digest", "memory", "start", "context_tokens", "prompt_tokens", "decode_tokens", "threads")
    # Peers have one session, and are measured beside one.
    return machine(row), *(row[column] for column in columns), row["sessions"] or "1"


def case(row, paged):
    memory = row["memory"]
    if paged:
        place = "paged from disk" if memory in ("auto", "none") else f"{memory} of memory"
    else:
        place = "in memory" if memory in ("auto", "none") else f"in memory, of {memory}"
    words = [row["model"].removesuffix(".gguf"), place]
    if row["start"] != "fresh":
        words.append(row["start"])
    words.append(f"{row['prompt_tokens']} + {row['decode_tokens']} tokens")
    if row["context_tokens"] not in ("", "0"):
        words.append(f"behind {row['context_tokens']}")
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
    """machine -> case -> (engine, label) -> (prefill, decode, ceiling of decode), medians."""
    paged = {setting(row) for row in rows if number(row["disk_bytes_per_token"])}
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        ours = row["engine"] == "membrane"
        values = (number(row["prefill_tok_s"]), number(row["decode_tok_s"]), ceiling(row) if ours else None)
        what = case(row, setting(row) in paged)
        found[machine(row)][what, row["model_digest"]][engine(row), label(row)].append(values)

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
    names = {name for cases in collected.values() for engines in cases.values() for name, _ in engines}
    order = ["membrane", *sorted(names - {"membrane"})]
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(order)}
    decode_x, prefill_x = LABEL, LABEL + WIDTH + GAP
    for where, cases in sorted(collected.items()):
        picture.text(8, where, ' font-weight="bold"')
        picture.text(decode_x, "decode, tokens a second", ' font-weight="bold"')
        picture.text(prefill_x, "prefill, tokens a second", ' font-weight="bold"')
        picture.y += ROW + 3
        for (what, _), engines in sorted(cases.items()):
            picture.text(8, what)
            picture.y += ROW
            decodes = [value for run in engines.values() for value in run[1:] if value]
            prefills = [run[0] for run in engines.values() if run[0]]
            for name, label in sorted(engines, key=lambda bar: (order.index(bar[0]), bar[1])):
                prefill, decode, limit = engines[name, label]
                picture.text(24, label)
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
    try:
        rows = read(files)
    except Unreadable as error:
        sys.exit(str(error))
    if not rows:
        sys.exit("there are no rows")
    args.out.write_text(draw(collect(rows)), encoding="utf-8")


main()
