"""A maildir of 20,000 messages whose texts are descriptions of packages; a day later 3 % are new, 2 % gone and a tenth read.

A message that was read has another name. The dice have a fixed seed.
"""

import os
import random
import sys


def texts(path):
    """The paragraphs of what apt prints, those with some length."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for paragraph in lines.read().split("\n\n"):
            if len(paragraph) > 600:
                yield paragraph


def message(number, text, dice):
    name = text.split("\n", 1)[0].removeprefix("Package: ")
    head = [
        f"Return-Path: <builder{dice.randint(1, 40)}@lists.example>",
        f"Message-ID: <{dice.getrandbits(96):024x}@mail.example>",
        f"Date: Mon, {1 + number % 28:02} Jan 2024 {number % 24:02}:{number % 60:02}:{number % 59:02} +0000",
        f"From: Builder <builder@lists.example>\nTo: list@lists.example\nSubject: Accepted {name}",
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit",
    ]
    return "\n".join(head) + "\n\n" + text + "\n"


def write(folder, name, text):
    path = os.path.join(folder, "cur", name)
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    os.utime(path, (1700000000, 1700000000))


def main(source, folder):
    dice = random.Random(5)
    for version in ("v0", "v1"):
        os.makedirs(os.path.join(folder, version, "cur"))
    for number, text in enumerate(texts(source)):
        if number == 20600:
            break
        mail = message(number, text, dice)
        name = f"{1700000000 + number}.M{dice.randint(0, 999999):06}P{dice.randint(100, 30000)}.mail"
        flags = ":2,S" if dice.random() < 0.5 else ":2,"
        if number < 20000:
            write(os.path.join(folder, "v0"), name + flags, mail)
        if number >= 20000 or dice.random() >= 0.02:
            read = dice.random() < 0.1
            write(os.path.join(folder, "v1"), name + (":2,S" if read else flags), mail)
    for version in ("v0", "v1"):
        for path in (os.path.join(folder, version, "cur"), os.path.join(folder, version)):
            os.utime(path, (1700000000, 1700000000))


main(sys.argv[1], sys.argv[2])
