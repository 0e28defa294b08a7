"""One program in a room: publishes sound and a picture whose colour changes, sends data and a text
stream, and checks what comes from the others.

    participant.py --url ws://… --token … [--expect 1] [--seconds 30] [--media-only]

It reports in one line of JSON as soon as everything has come from `--expect` others, and then stays until its
standard input closes, so that they can receive as much from it (exit code 0); or it gives up after `--seconds`
(exit code 1). With `--media-only` it wants sound and pictures alone, which is all that a browser sends by itself;
with `--expect 0` it counts for `--seconds`.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field

import numpy as np
from livekit import rtc

RATE = 48_000
WIDTH, HEIGHT = 640, 360
FRAMES_PER_SECOND = 15
FRAMES_WANTED = 15
#: Louder, as root mean square of 16-bit samples, than what an encoder makes of silence.
AUDIBLE = 100.0
#: Nobody keeps it longer than this, in seconds, once it has met everyone.
COMPANY_MAX = 300
#: The picture takes these colours in turn, half a second each: far enough apart to survive encoding.
COLOURS = [(200, 40, 40), (40, 180, 60), (50, 70, 220)]
COLOUR_SECONDS = 0.5
#: Colours that must have been seen: one could be a frozen picture.
COLOURS_WANTED = 2
CHAT = "lk.chat"
DATA_TOPIC = "hemicycle"


@dataclass
class Seen:
    """What came from one other."""

    frames: int = 0
    size: str = ""
    colours: set = field(default_factory=set)
    loudness: float = 0.0
    data: list = field(default_factory=list)
    texts: list = field(default_factory=list)

    def enough(self, media_only):
        media = self.frames >= FRAMES_WANTED and self.loudness > AUDIBLE
        if media_only:
            return media
        return media and len(self.colours) >= COLOURS_WANTED and self.data and self.texts

    def told(self):
        counts = {what: len(getattr(self, what)) for what in ("colours", "data", "texts")}
        return {**asdict(self), **counts, "loudness": round(self.loudness)}


async def speak(source):
    """A tone that comes and goes as syllables do; capture_frame keeps the pace."""
    step, at = RATE // 100, 0
    while True:
        times = (np.arange(step) + at) / RATE
        loudness = 4_000 + 3_500 * np.sin(2 * math.pi * 4 * times)
        samples = (np.sin(times * 330 * 2 * math.pi) * loudness).astype(np.int16)
        await source.capture_frame(rtc.AudioFrame(samples.tobytes(), RATE, 1, step))
        at += step


async def show(source):
    begin = time.monotonic()
    while True:
        turn = int((time.monotonic() - begin) / COLOUR_SECONDS) % len(COLOURS)
        picture = np.empty((HEIGHT, WIDTH, 4), dtype=np.uint8)
        picture[:] = (*COLOURS[turn], 255)
        buffer = rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, picture.tobytes())
        source.capture_frame(buffer)
        await asyncio.sleep(1 / FRAMES_PER_SECOND)


async def watch(track, seen):
    async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.RGBA):
        frame = event.frame
        seen.frames += 1
        seen.size = f"{frame.width}x{frame.height}"
        pixels = np.frombuffer(frame.data, dtype=np.uint8).reshape(frame.height, frame.width, 4)
        middle = pixels[frame.height // 2, frame.width // 2, :3].astype(int)
        distance = [int(np.abs(middle - np.array(colour)).sum()) for colour in COLOURS]
        if min(distance) < 120:
            seen.colours.add(distance.index(min(distance)))


async def listen(track, seen):
    async for event in rtc.AudioStream(track, sample_rate=RATE, num_channels=1):
        samples = np.frombuffer(event.frame.data, dtype=np.int16).astype(np.float64)
        seen.loudness = max(seen.loudness, float(np.sqrt(np.mean(samples**2))))


async def publish(room, tasks):
    audio, video = rtc.AudioSource(RATE, 1), rtc.VideoSource(WIDTH, HEIGHT)
    for track, source in (
        (rtc.LocalAudioTrack.create_audio_track("tone", audio), rtc.TrackSource.SOURCE_MICROPHONE),
        (rtc.LocalVideoTrack.create_video_track("colours", video), rtc.TrackSource.SOURCE_CAMERA),
    ):
        await room.local_participant.publish_track(track, rtc.TrackPublishOptions(source=source))
    tasks += [asyncio.create_task(speak(audio)), asyncio.create_task(show(video))]


async def talk(room):
    """Data and text again and again, because others may come later."""
    me, count = room.local_participant, 0
    while True:
        count += 1
        await me.publish_data(f"data {count} of {me.identity}", reliable=True, topic=DATA_TOPIC)
        await me.send_text(f"text {count} of {me.identity}", topic=CHAT)
        await asyncio.sleep(1)


def follow(room, others, tasks):
    """Notes whatever comes in `others`."""

    def seen_of(identity):
        return others.setdefault(identity, Seen())

    @room.on("track_subscribed")
    def _subscribed(track, _publication, participant):
        act = watch if track.kind == rtc.TrackKind.KIND_VIDEO else listen
        tasks.append(asyncio.create_task(act(track, seen_of(participant.identity))))

    @room.on("data_received")
    def _data(packet):
        if packet.topic == DATA_TOPIC and packet.participant is not None:
            seen_of(packet.participant.identity).data.append(packet.data.decode())

    def on_text(reader, identity):
        async def read():
            seen_of(identity).texts.append(await reader.read_all())

        tasks.append(asyncio.create_task(read()))

    room.register_text_stream_handler(CHAT, on_text)


async def meet(arguments):
    room, others, tasks = rtc.Room(), {}, []
    follow(room, others, tasks)
    begin = time.monotonic()
    await room.connect(arguments.url, arguments.token)
    connected = time.monotonic() - begin
    await publish(room, tasks)
    tasks.append(asyncio.create_task(talk(room)))
    met, end = 0, begin + arguments.seconds
    while time.monotonic() < end and (met < arguments.expect or not arguments.expect):
        await asyncio.sleep(0.1)
        met = sum(bool(seen.enough(arguments.media_only)) for seen in others.values())
    took = time.monotonic() - begin
    report = {
        "participant": room.local_participant.identity,
        "client": f"livekit (Python) {rtc.__version__}",
        "connected_seconds": round(connected, 2),
        "met_seconds": round(took, 2),
        "received": {who: seen.told() for who, seen in sorted(others.items())},
        "ok": met >= arguments.expect,
    }
    print(json.dumps(report), flush=True)
    if report["ok"]:
        await asyncio.wait_for(asyncio.to_thread(sys.stdin.read), COMPANY_MAX)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await room.disconnect()
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--expect", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--media-only", action="store_true")
    arguments = parser.parse_args()
    bound = arguments.seconds + COMPANY_MAX + 60
    report = asyncio.run(asyncio.wait_for(meet(arguments), bound))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
