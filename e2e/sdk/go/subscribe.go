package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
)

const (
	// gridTiles are shown by each subscriber, as a 3×3 grid shows them; further tracks are switched off.
	gridTiles             = 9
	tileWidth, tileHeight = 426, 240
	// reorderWindow: a packet that is missing may still come late or again, within so many others.
	reorderWindow = 512
)

// counter watches the sequence numbers of one track.
type counter struct {
	identity string
	packets  uint64
	first    uint64
	highest  uint64
	seen     map[uint64]struct{}
	started  bool
}

// add takes one packet; padding that probes for bandwidth has a number but carries no media.
func (c *counter) add(sequence uint16, media bool) {
	if media {
		c.packets++
	}
	if c.seen == nil {
		c.seen = map[uint64]struct{}{}
	}
	if !c.started {
		c.started = true
		c.first = uint64(sequence) + 1<<16
		c.highest = c.first
		c.seen[c.first] = struct{}{}
		return
	}
	// The nearest number to the highest one that ends in these 16 bits.
	long := c.highest + uint64(int64(int16(sequence-uint16(c.highest))))
	if long < c.first {
		return
	}
	c.highest = max(c.highest, long)
	c.seen[long] = struct{}{}
}

// lost is how many numbers never came, without those that may still be on their way.
func (c *counter) lost() (lost, expected uint64) {
	if !c.started || c.highest < c.first+reorderWindow/16 {
		return 0, 0
	}
	last := c.highest - reorderWindow/32
	for at := c.first; at <= last; at++ {
		if _, ok := c.seen[at]; !ok {
			lost++
		}
	}
	return lost, last - c.first + 1
}

// subscriber is one participant that only receives.
type subscriber struct {
	sync.Mutex
	room     *lksdk.Room
	tracks   map[string]*counter
	shown    int
	errors   []string
	joinTime time.Duration
	leaving  bool
}

// wantedEach is how many tracks every subscriber must receive.
func (p *parameters) wantedEach() int {
	if p.Case == "video" {
		return min(p.Publishers, gridTiles)
	}
	return p.Publishers
}

func subscribe(p *parameters, index int) (*subscriber, error) {
	identity := fmt.Sprintf("subscriber-%03d", index)
	given, err := p.seat(identity)
	if err != nil {
		return nil, err
	}
	one := &subscriber{tracks: map[string]*counter{}}
	callback := &lksdk.RoomCallback{
		OnDisconnected: func() { one.fail("disconnected") },
		OnReconnecting: func() { one.fail("reconnecting") },
	}
	callback.OnTrackSubscribed = one.subscribed
	callback.OnTrackSubscriptionFailed = func(sid string, _ *lksdk.RemoteParticipant) {
		one.fail("subscription failed: " + sid)
	}
	began := time.Now()
	room, err := lksdk.ConnectToRoomWithToken(given.URL, given.Token, callback,
		lksdk.WithAutoSubscribe(true), lksdk.WithDisableRegionDiscovery())
	if err != nil {
		return nil, fmt.Errorf("%s cannot join: %w", identity, err)
	}
	one.room, one.joinTime = room, time.Since(began)
	return one, nil
}

func (s *subscriber) fail(what string) {
	s.Lock()
	defer s.Unlock()
	if !s.leaving {
		s.errors = append(s.errors, what)
	}
}

func (s *subscriber) subscribed(
	track *webrtc.TrackRemote, publication *lksdk.RemoteTrackPublication, from *lksdk.RemoteParticipant,
) {
	if publication.Kind() == lksdk.TrackKindVideo {
		s.Lock()
		s.shown++
		shown := s.shown <= gridTiles
		s.Unlock()
		if !shown {
			publication.SetEnabled(false)
			return
		}
		publication.SetVideoDimensions(tileWidth, tileHeight)
		if err := publication.SetVideoQuality(livekit.VideoQuality_MEDIUM); err != nil {
			s.fail("track settings: " + err.Error())
		}
	}
	one := &counter{identity: from.Identity()}
	s.Lock()
	s.tracks[publication.SID()] = one
	s.Unlock()
	go func() {
		for {
			packet, _, err := track.ReadRTP()
			if err != nil {
				return
			}
			s.Lock()
			one.add(packet.SequenceNumber, len(packet.Payload) > 0)
			s.Unlock()
		}
	}()
}

// startCounting forgets what came before.
func (s *subscriber) startCounting() {
	s.Lock()
	defer s.Unlock()
	for _, one := range s.tracks {
		*one = counter{identity: one.identity}
	}
}

func (s *subscriber) leave() {
	s.Lock()
	s.leaving = true
	s.Unlock()
	s.room.Disconnect()
}

// receiving is how many tracks have brought packets.
func (s *subscriber) receiving() (count int) {
	s.Lock()
	defer s.Unlock()
	for _, one := range s.tracks {
		if one.packets > 0 {
			count++
		}
	}
	return count
}

// awaitTracks waits until everyone receives all they want; how long that took.
func awaitTracks(all []*subscriber, wanted int, bound time.Duration) time.Duration {
	began := time.Now()
	for time.Since(began) < bound {
		missing := false
		for _, one := range all {
			missing = missing || one.receiving() < wanted
		}
		if !missing {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(began)
}

// summary of a run.
type summary struct {
	*parameters
	SDK              string   `json:"sdk"`
	TracksWanted     int      `json:"tracks_wanted"`
	TracksReceived   int      `json:"tracks_received"`
	Packets          uint64   `json:"packets"`
	PacketsPerSecond float64  `json:"packets_per_second"`
	Lost             uint64   `json:"lost"`
	LossPercent      float64  `json:"loss_percent"`
	JoinSecondsMax   float64  `json:"join_seconds_max"`
	AllTracksSeconds float64  `json:"all_tracks_seconds"`
	Errors           []string `json:"errors"`
	OK               bool     `json:"ok"`
}

func summarise(p *parameters, all []*subscriber) *summary {
	s := &summary{parameters: p, SDK: "server-sdk-go " + lksdk.Version, Errors: []string{}}
	s.TracksWanted = p.wantedEach() * len(all)
	var expected uint64
	for i, one := range all {
		s.TracksReceived += min(one.receiving(), p.wantedEach())
		one.Lock()
		for _, track := range one.tracks {
			lost, of := track.lost()
			s.Packets += track.packets
			s.Lost += lost
			expected += of
			if track.packets == 0 {
				s.Errors = append(s.Errors, fmt.Sprintf("subscriber %d got nothing of %s", i, track.identity))
			}
		}
		for _, what := range one.errors {
			s.Errors = append(s.Errors, fmt.Sprintf("subscriber %d: %s", i, what))
		}
		s.JoinSecondsMax = max(s.JoinSecondsMax, one.joinTime.Seconds())
		one.Unlock()
	}
	s.PacketsPerSecond = float64(s.Packets) / p.Seconds
	if expected > 0 {
		s.LossPercent = 100 * float64(s.Lost) / float64(expected)
	}
	s.OK = s.TracksReceived == s.TracksWanted && len(s.Errors) == 0 && s.LossPercent <= p.LossMax
	return s
}
