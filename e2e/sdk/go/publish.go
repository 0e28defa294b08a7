package main

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4/pkg/media"
)

// layer is one simulcast quality as a small camera sends it.
type layer struct {
	quality       livekit.VideoQuality
	width, height uint32
	bitrate       int
	fps           int
}

var layers = []layer{
	{livekit.VideoQuality_LOW, 320, 180, 120_000, 15},
	{livekit.VideoQuality_MEDIUM, 640, 360, 400_000, 20},
	{livekit.VideoQuality_HIGH, 1280, 720, 1_200_000, 25},
}

const (
	// keyframeFactor: a keyframe is this many times as large as other frames.
	keyframeFactor = 5
	audioFrame     = 20 * time.Millisecond
	// audioBytes: Opus at 32 kbit/s.
	audioBytes = 80
	// audioLevel in -dBov of a calm voice.
	audioLevel = 30
)

// publisher is one participant that only sends.
type publisher struct {
	room *lksdk.Room
	stop chan struct{}
	once sync.Once
}

func (p *publisher) leave() {
	p.once.Do(func() { close(p.stop) })
	p.room.Disconnect()
}

func publish(p *parameters, index int) (*publisher, error) {
	identity := fmt.Sprintf("publisher-%03d", index)
	given, err := p.seat(identity)
	if err != nil {
		return nil, err
	}
	room, err := lksdk.ConnectToRoomWithToken(given.URL, given.Token, &lksdk.RoomCallback{},
		lksdk.WithAutoSubscribe(false), lksdk.WithDisableRegionDiscovery())
	if err != nil {
		return nil, fmt.Errorf("%s cannot join: %w", identity, err)
	}
	one := &publisher{room: room, stop: make(chan struct{})}
	if p.Case == "audio" {
		err = one.publishAudio(p)
	} else {
		err = one.publishVideo(p, identity)
	}
	if err != nil {
		one.leave()
		return nil, fmt.Errorf("%s cannot publish: %w", identity, err)
	}
	return one, nil
}

func (p *publisher) publishAudio(of *parameters) error {
	track, err := lksdk.NewLocalTrack(of.capability())
	if err != nil {
		return err
	}
	options := &lksdk.TrackPublicationOptions{Name: "voice", Source: livekit.TrackSource_MICROPHONE}
	if _, err = p.room.LocalParticipant.PublishTrack(track, options); err != nil {
		return err
	}
	payload := make([]byte, audioBytes)
	// Opus' first byte: 20 ms, one frame, CELT fullband (RFC 6716, 3.1). The rest is never decoded.
	payload[0] = 0xf8
	level := uint8(audioLevel)
	go p.tick(audioFrame, func(uint32) {
		_ = track.WriteSample(media.Sample{Data: payload, Duration: audioFrame},
			&lksdk.SampleWriteOptions{AudioLevel: &level})
	})
	return nil
}

func (p *publisher) publishVideo(of *parameters, identity string) error {
	tracks := make([]*lksdk.LocalTrack, 0, len(layers))
	for _, one := range layers {
		wantsKeyframe := &atomic.Bool{}
		onFeedback := func(packet rtcp.Packet) {
			switch packet.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				wantsKeyframe.Store(true)
			}
		}
		track, err := lksdk.NewLocalTrack(of.capability(),
			lksdk.WithSimulcast(identity, &livekit.VideoLayer{Quality: one.quality,
				Width: one.width, Height: one.height, Bitrate: uint32(one.bitrate)}),
			lksdk.WithRTCPHandler(onFeedback))
		if err != nil {
			return err
		}
		tracks = append(tracks, track)
		interval := time.Second / time.Duration(one.fps)
		size := one.bitrate / 8 / one.fps
		track.OnBind(func() {
			wantsKeyframe.Store(true)
			go p.tick(interval, func(n uint32) {
				key := wantsKeyframe.Swap(false)
				data := frame(of.Codec, one, key, size, n)
				_ = track.WriteSample(media.Sample{Data: data, Duration: interval}, nil)
			})
		})
	}
	options := &lksdk.TrackPublicationOptions{Name: "camera", Source: livekit.TrackSource_CAMERA,
		VideoWidth: int(layers[2].width), VideoHeight: int(layers[2].height)}
	_, err := p.room.LocalParticipant.PublishSimulcastTrack(tracks, options)
	return err
}

// tick calls act at a steady pace: what a slow moment missed is caught up, not left out.
func (p *publisher) tick(every time.Duration, act func(n uint32)) {
	begin := time.Now()
	for n := uint32(0); ; n++ {
		due := begin.Add(time.Duration(n) * every)
		select {
		case <-p.stop:
			return
		case <-time.After(time.Until(due)):
			act(n)
		}
	}
}

// frame makes a frame whose headers are right and whose picture is noise: an SFU reads no further.
func frame(codec string, of layer, key bool, size int, n uint32) []byte {
	if key {
		size *= keyframeFactor
	}
	body := make([]byte, size)
	// Anything but zeros, which an H264 packetiser could take for a start code.
	for i := range body {
		body[i] = byte(uint32(i)*31+n) | 0x11
	}
	if codec == "vp8" {
		return vp8Frame(body, of, key)
	}
	return h264Frame(body, key)
}

// vp8Frame writes the frame tag, and a keyframe's start code and size (RFC 6386, 9.1).
func vp8Frame(body []byte, of layer, key bool) []byte {
	body[0] &^= 1
	if !key {
		body[0] |= 1
		return body
	}
	copy(body[3:], []byte{0x9d, 0x01, 0x2a})
	binary.LittleEndian.PutUint16(body[6:], uint16(of.width))
	binary.LittleEndian.PutUint16(body[8:], uint16(of.height))
	return body
}

// h264Frame is an access unit in Annex B: parameter sets and an IDR slice, or one other slice.
func h264Frame(body []byte, key bool) []byte {
	start := []byte{0, 0, 0, 1}
	if !key {
		body[0] = 0x41
		return append(start, body...)
	}
	sps := []byte{0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x8d, 0x40, 0x50, 0x17, 0xfc, 0xb0, 0x0f, 0x08, 0x84, 0x6a}
	pps := []byte{0x68, 0xce, 0x3c, 0x80}
	body[0] = 0x65
	unit := append(append([]byte{}, start...), sps...)
	unit = append(append(unit, start...), pps...)
	return append(append(unit, start...), body...)
}
