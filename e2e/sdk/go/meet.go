package main

import (
	"context"
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

// counts of packets from one other.
type counts struct {
	Audio int `json:"audio_packets"`
	Video int `json:"video_packets"`
}

// report of one participant.
type report struct {
	Participant string            `json:"participant"`
	Client      string            `json:"client"`
	Received    map[string]counts `json:"received"`
	Listed      int               `json:"listed"`
	OK          bool              `json:"ok"`
}

// meeting is what came so far, by identity.
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

func publishSilence(room *lksdk.Room) error {
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

// meet joins, and ends once it has met --expect others or --seconds are over.
func meet(arguments []string) (any, bool, error) {
	said, err := visit(arguments)
	return said, said.OK, err
}

func visit(arguments []string) (report, error) {
	flag := flags("meet")
	url := flag.String("url", "", "where to connect to")
	name := flag.String("room", "", "the room")
	seconds := flag.Float64("seconds", 30, "when to give up")
	expect := flag.Int("expect", 1, "others to meet")
	read(flag, arguments)
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
	if err := publishSilence(room); err != nil {
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
