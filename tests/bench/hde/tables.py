"""The packages that apt knows as a table, before and after some of its rows changed: SQLite, CSV, Parquet and a folder of workbooks.

What changes is drawn by dice with a fixed seed: 2 % of the rows get another version and size, 0.5 % go, 1 % are new.
"""

import csv
import os
import random
import sqlite3
import sys

import openpyxl
import pyarrow
import pyarrow.parquet

COLUMNS = ["package", "version", "architecture", "section", "priority", "installed_size", "size", "maintainer", "depends", "description"]
NUMBERS = {"installed_size", "size"}
DAY = "2024-01-01T00:00:00"


def packages(path):
    """One dictionary for each paragraph, by name; the first of several versions counts."""
    found, present, last = {}, {}, None
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line == "\n":
                if "package" in present:
                    found.setdefault(present["package"], present)
                present, last = {}, None
            elif line[0] in " \t":
                if last:
                    present[last] += "\n" + line.strip()
            else:
                key, _, value = line.partition(":")
                last = key.lower().replace("-", "_")
                last = "description" if last == "description_en" else last
                present[last] = value.strip()
    return [row(found[name]) for name in sorted(found)]


def row(package):
    return [int(package.get(c, 0) or 0) if c in NUMBERS else package.get(c, "") for c in COLUMNS]


def changed(rows):
    """The rows of the second version, and the changes that lead there."""
    dice = random.Random(11)
    names = {old[0] for old in rows}
    updates, deletes, inserts, new = [], [], [], []
    for old in rows:
        draw = dice.random()
        if draw < 0.005:
            deletes.append(old[0])
            continue
        if draw < 0.025:
            old = old.copy()
            old[1] += f"+b{dice.randint(1, 4)}"
            old[6] += dice.randint(-2000, 8000)
            updates.append(old)
        new.append(old)
        if draw > 0.99 and old[0] + "-extra" not in names:
            copy = old.copy()
            copy[0] += "-extra"
            copy[6] = dice.randint(1000, 900000)
            inserts.append(copy)
            new.append(copy)
    return new, updates, deletes, inserts


def sqlite(folder, rows, updates, deletes, inserts):
    path = f"{folder}/sqlite.v0"
    marks = ",".join("?" * len(COLUMNS))
    with sqlite3.connect(path) as base:
        base.execute(f"create table packages ({', '.join(COLUMNS)}, primary key (package))")
        base.execute("create index by_section on packages (section, size)")
        base.execute("create index by_maintainer on packages (maintainer)")
        base.executemany(f"insert into packages values ({marks})", rows)
    base.close()
    with open(path, "rb") as before, open(f"{folder}/sqlite.v1", "wb") as after:
        after.write(before.read())
    with sqlite3.connect(f"{folder}/sqlite.v1") as base:
        base.executemany("update packages set version = ?, size = ? where package = ?", [(r[1], r[6], r[0]) for r in updates])
        base.executemany("delete from packages where package = ?", [(name,) for name in deletes])
        base.executemany(f"insert into packages values ({marks})", inserts)
    base.close()


def exports(folder, version, rows):
    with open(f"{folder}/csv.{version}", "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    table = pyarrow.table({name: [r[i] for r in rows] for i, name in enumerate(COLUMNS)})
    pyarrow.parquet.write_table(table, f"{folder}/parquet.{version}", row_group_size=16384)


def office(folder, version, rows):
    """One workbook for each section, without its descriptions."""
    from datetime import datetime

    os.mkdir(f"{folder}/office-{version}")
    sections = {}
    for each in rows:
        sections.setdefault(each[3].replace("/", "-") or "none", []).append(each[:9])
    for name, members in sorted(sections.items()):
        book = openpyxl.Workbook(write_only=True)
        book.properties.created = book.properties.modified = datetime.fromisoformat(DAY)
        sheet = book.create_sheet(name[:30])
        sheet.append(COLUMNS[:9])
        for member in members[:3000]:
            sheet.append([openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE.sub("", v)[:32000] if isinstance(v, str) else v for v in member])
        path = f"{folder}/office-{version}/{name}.xlsx"
        book.save(path)
        os.utime(path, (1700000000, 1700000000))


def main(source, folder):
    rows = packages(source)
    new, updates, deletes, inserts = changed(rows)
    sqlite(folder, rows, updates, deletes, inserts)
    for version, present in (("v0", rows), ("v1", new)):
        exports(folder, version, present)
        office(folder, version, present)


main(sys.argv[1], sys.argv[2])
