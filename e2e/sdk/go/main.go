// Command participant joins a room with LiveKit's Go SDK, publishes sound, counts the packets that it
// receives from others, and asks the room service about the room.
//
//	participant --url ws://… --room council [--seconds 30] [--expect 1]
//
// The API key comes from LIVEKIT_API_KEY and LIVEKIT_API_SECRET. It ends as soon as it has received
// picture and sound from --expect others and the room service names them (exit code 0), or after
// --seconds (exit code 1).
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
)

// packetsWanted of each kind say that media flows.
const packetsWanted = 20

// silence is one Opus frame of 20 ms (RFC 6716: SILK-less, one empty frame).
var silence = []byte{0xf8, 0xff, 0xfe}

type counts struct {
	Audio int `json:"audio_packets"`
	Video int `json:"video_packets"`
}

type report struct {
	Participant string            `json:"participant"`
	Client      string            `json:"client"`
	Received    map[string]counts `json:"received"`
	Listed      int               `json:"listed"`
	OK          bool              `json:"ok"`
}

type meeting struct {
	sync.Mutex
	received map[string]counts
}

func (m *meeting) follow(track *webrtc.TrackRemote, who string) {
	for {
		if _, _, err := track.ReadRTP(); err != nil {
			return
		}
		m.Lock()
		seen := m.received[who]
		if track.Kind() == webrtc.RTPCodecTypeVideo {
			seen.Video++
		} else {
			seen.Audio++
		}
		m.received[who] = seen
		m.Unlock()
	}
}

func (m *meeting) met() (met int, copied map[string]counts) {
	m.Lock()
	defer m.Unlock()
	copied = map[string]counts{}
	for who, seen := range m.received {
		copied[who] = seen
		if seen.Audio >= packetsWanted && seen.Video >= packetsWanted {
			met++
		}
	}
	return met, copied
}

func publish(room *lksdk.Room) error {
	capability := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	track, err := lksdk.NewLocalTrack(capability)
	if err != nil {
		return err
	}
	options := &lksdk.TrackPublicationOptions{Name: "silence", Source: livekit.TrackSource_MICROPHONE}
	if _, err = room.LocalParticipant.PublishTrack(track, options); err != nil {
		return err
	}
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			_ = track.WriteSample(media.Sample{Data: silence, Duration: 20 * time.Millisecond}, nil)
		}
	}()
	return nil
}

func run() (report, error) {
	url := flag.String("url", "", "where to connect to")
	name := flag.String("room", "", "the room")
	seconds := flag.Float64("seconds", 30, "when to give up")
	expect := flag.Int("expect", 1, "others to meet")
	flag.Parse()
	key, secret := os.Getenv("LIVEKIT_API_KEY"), os.Getenv("LIVEKIT_API_SECRET")
	m := &meeting{received: map[string]counts{}}
	callback := &lksdk.RoomCallback{ParticipantCallback: lksdk.ParticipantCallback{
		OnTrackSubscribed: func(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, rp *lksdk.RemoteParticipant) {
			go m.follow(track, rp.Identity())
		},
	}}
	info := lksdk.ConnectInfo{APIKey: key, APISecret: secret, RoomName: *name, ParticipantIdentity: "gopher"}
	room, err := lksdk.ConnectToRoom(*url, info, callback)
	if err != nil {
		return report{}, fmt.Errorf("cannot join: %w", err)
	}
	defer room.Disconnect()
	if err := publish(room); err != nil {
		return report{}, fmt.Errorf("cannot publish: %w", err)
	}
	service := lksdk.NewRoomServiceClient(*url, key, secret)
	said := report{Participant: "gopher", Client: "server-sdk-go " + lksdk.Version}
	end := time.Now().Add(time.Duration(*seconds * float64(time.Second)))
	for time.Now().Before(end) && !said.OK {
		time.Sleep(200 * time.Millisecond)
		var met int
		met, said.Received = m.met()
		if met < *expect {
			continue
		}
		list, err := service.ListParticipants(context.Background(), &livekit.ListParticipantsRequest{Room: *name})
		if err != nil {
			return said, fmt.Errorf("cannot list participants: %w", err)
		}
		said.Listed = len(list.Participants)
		said.OK = said.Listed > *expect
	}
	return said, nil
}

func main() {
	said, err := run()
	text, _ := json.MarshalIndent(said, "", "  ")
	fmt.Println(string(text))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !said.OK {
		os.Exit(1)
	}
}
