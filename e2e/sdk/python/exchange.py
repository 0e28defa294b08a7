"""Two programs, each with LiveKit's Python SDK, exchange sound, pictures, data and text streams.

    exchange.py --dev http://127.0.0.1:7880
    exchange.py --url ws://host:7880 --key K --secret S

Each is a process of its own (participant.py). Exit code 0 if both received all four kinds from the other.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

PROGRAM = Path(__file__).with_name("participant.py")
LIFE_SECONDS = 3600


def part(value):
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def mint(key, secret, room, identity):
    """An access token (HS256), as an application's server would sign it."""
    now = int(time.time())
    claims = {"iss": key, "sub": identity, "name": identity, "nbf": now - 10}
    claims |= {"exp": now + LIFE_SECONDS, "video": {"room": room, "roomJoin": True}}
    body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    digest = hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def seat(arguments, room, identity):
    if not arguments.dev:
        return arguments.url, mint(arguments.key, arguments.secret, room, identity)
    query = urllib.parse.urlencode({"room": room, "identity": identity, "name": identity})
    with urllib.request.urlopen(f"{arguments.dev.rstrip('/')}/dev/token?{query}") as answer:
        given = json.load(answer)
    return given["url"], given["token"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--dev")
    parser.add_argument("--url")
    parser.add_argument("--key")
    parser.add_argument("--secret")
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    if not arguments.dev and not (arguments.url and arguments.key and arguments.secret):
        parser.error("--dev, or --url with --key and --secret, is needed")
    room = f"exchange-{os.getpid()}"
    programs = []
    for identity in ("ada", "blaise"):
        url, token = seat(arguments, room, identity)
        line = [sys.executable, str(PROGRAM), "--url", url, "--token", token]
        line += ["--seconds", str(arguments.seconds)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        programs.append(subprocess.Popen(line, **pipes))
    # Each reports in one line and then keeps the other company; both bound their own time.
    reports = [program.stdout.readline() for program in programs]
    failed = 0
    for program, said in zip(programs, reports):
        program.stdin.close()
        failed += program.wait() != 0
        report = json.loads(said or '{"participant": "?", "received": {}}')
        for who, seen in report["received"].items():
            print(
                f"{'ok  ' if program.returncode == 0 else 'FAIL'} {report['participant']} received from {who}: "
                f"{seen['frames']} frames {seen['size']}, {seen['colours']} colours, "
                f"loudness {seen['loudness']}, {seen['data']} data, {seen['texts']} texts"
            )
        if not report["received"]:
            print(f"FAIL {report['participant']} received nothing")
    print(f"{len(programs) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
