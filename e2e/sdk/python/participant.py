"""Joins a room with the Python package `livekit`, publishes a tone and a moving picture, and counts what it receives.

    participant.py --url ws://… --token … [--seconds 20] [--expect 2]

It reports as soon as it has received picture and sound from `--expect` others, stays until its standard input
closes (exit code 0), or gives up after `--seconds` (exit code 1). It knows nothing of the server but its address: what works here works for any user of the package.
"""

import argparse
import asyncio
import json
import math
import sys
import time

import numpy as np
from livekit import rtc

RATE = 48_000
WIDTH, HEIGHT = 320, 180
FRAMES_WANTED = 15
# Louder than the dither of an encoder that was fed silence.
AUDIBLE = 100.0


class Seen:
    """What came from one other participant."""

    def __init__(self):
        self.frames = 0
        self.width = 0
        self.height = 0
        self.loudest = 0.0

    def enough(self):
        return self.frames >= FRAMES_WANTED and self.loudest > AUDIBLE


async def speak(source, frequency):
    """A sine, ten milliseconds at a time; capture_frame keeps the pace."""
    step = RATE // 100
    at = 0
    while True:
        times = (np.arange(step) + at) / RATE
        samples = (np.sin(times * frequency * 2 * math.pi) * 8_000).astype(np.int16)
        await source.capture_frame(rtc.AudioFrame(samples.tobytes(), RATE, 1, step))
        at += step


async def show(source):
    """A bar that moves, fifteen times a second."""
    at = 0
    while True:
        picture = np.full((HEIGHT, WIDTH, 4), 32, dtype=np.uint8)
        picture[:, at % WIDTH : at % WIDTH + 20] = (40, 160, 220, 255)
        source.capture_frame(
            rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, picture.tobytes())
        )
        at += 8
        await asyncio.sleep(1 / 15)


async def watch(track, seen):
    async for event in rtc.VideoStream(track):
        seen.frames += 1
        seen.width, seen.height = event.frame.width, event.frame.height


async def listen(track, seen):
    async for event in rtc.AudioStream(track, sample_rate=RATE, num_channels=1):
        samples = np.frombuffer(event.frame.data, dtype=np.int16).astype(np.float64)
        seen.loudest = max(seen.loudest, float(np.sqrt(np.mean(samples**2))))


async def publish(room, tasks):
    audio = rtc.AudioSource(RATE, 1)
    video = rtc.VideoSource(WIDTH, HEIGHT)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    track = rtc.LocalAudioTrack.create_audio_track("tone", audio)
    await room.local_participant.publish_track(track, options)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA)
    track = rtc.LocalVideoTrack.create_video_track("bar", video)
    await room.local_participant.publish_track(track, options)
    tasks.append(asyncio.create_task(speak(audio, 440)))
    tasks.append(asyncio.create_task(show(video)))


async def meet(arguments):
    room, others, tasks = rtc.Room(), {}, []

    @room.on("track_subscribed")
    def _subscribed(track, _publication, participant):
        seen = others.setdefault(participant.identity, Seen())
        follow = watch if track.kind == rtc.TrackKind.KIND_VIDEO else listen
        tasks.append(asyncio.create_task(follow(track, seen)))

    begin = time.monotonic()
    await room.connect(arguments.url, arguments.token)
    connected = time.monotonic() - begin
    await publish(room, tasks)
    end = begin + arguments.seconds
    met = 0
    # One that expects nobody stays until the end and only counts.
    while time.monotonic() < end and (met < arguments.expect or not arguments.expect):
        await asyncio.sleep(0.1)
        met = sum(seen.enough() for seen in others.values())
    took = time.monotonic() - begin
    report = {
        "participant": room.local_participant.identity,
        "client": f"livekit (Python) {rtc.__version__}",
        "connected_seconds": round(connected, 2),
        "met_seconds": round(took, 2),
        "received": {
            identity: {
                "frames": seen.frames,
                "size": f"{seen.width}x{seen.height}",
                "loudness": round(seen.loudest),
            }
            for identity, seen in sorted(others.items())
        },
        "ok": met >= arguments.expect,
    }
    print(json.dumps(report, indent=2), flush=True)
    if report["ok"]:
        # Stays for as long as its starter wants, so that the others can count what they get.
        await asyncio.wait_for(asyncio.to_thread(sys.stdin.read), 300)
    for task in tasks:
        task.cancel()
    await room.disconnect()
    return report


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--expect", type=int, default=1)
    arguments = parser.parse_args()
    report = asyncio.run(asyncio.wait_for(meet(arguments), arguments.seconds + 360))
    sys.exit(0 if report["ok"] else 1)


main()
