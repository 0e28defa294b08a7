package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/pion/webrtc/v4"
)

// settle is how long counting waits after the last subscriber joined: encoders and bandwidth estimates
// of real clients need it too, and loss at the start of a stream is not loss on the way.
const settle = 2 * time.Second

// joinsAtOnce is how many join at the same time: a hundred one after the other take longer than all that is
// measured of them.
const joinsAtOnce = 8

// parameters of one run.
type parameters struct {
	Case        string  `json:"case"`
	Codec       string  `json:"codec"`
	Publishers  int     `json:"publishers"`
	Subscribers int     `json:"subscribers"`
	Seconds     float64 `json:"seconds"`
	LossMax     float64 `json:"loss_max_percent"`

	dev, url, key, secret, room string
}

// seat is where and with what somebody joins.
type seat struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

func (p *parameters) seat(identity string) (seat, error) {
	if p.dev == "" {
		grant := &auth.VideoGrant{RoomJoin: true, Room: p.room}
		token, err := auth.NewAccessToken(p.key, p.secret).SetVideoGrant(grant).
			SetIdentity(identity).SetName(identity).SetValidFor(time.Hour).ToJWT()
		return seat{p.url, token}, err
	}
	query := url.Values{"room": {p.room}, "identity": {identity}, "name": {identity}}
	answer, err := http.Get(strings.TrimRight(p.dev, "/") + "/dev/token?" + query.Encode())
	if err != nil {
		return seat{}, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return seat{}, fmt.Errorf("the dev server answered %s to a token request", answer.Status)
	}
	var given seat
	return given, json.NewDecoder(answer.Body).Decode(&given)
}

func readLoad(arguments []string) *parameters {
	p := &parameters{}
	flag := flags("load")
	flag.StringVar(&p.dev, "dev", "", "base address of a dev server that hands out tokens")
	flag.StringVar(&p.url, "url", "", "signalling address, with --key and --secret")
	flag.StringVar(&p.key, "key", "", "API key")
	flag.StringVar(&p.secret, "secret", "", "its secret")
	flag.StringVar(&p.room, "room", fmt.Sprintf("load-%d", os.Getpid()), "room")
	flag.StringVar(&p.Case, "case", "audio", "audio or video")
	flag.StringVar(&p.Codec, "codec", "", "vp8 or h264, for --case video")
	flag.IntVar(&p.Publishers, "publishers", 0, "0: 5 for audio, 10 for video")
	flag.IntVar(&p.Subscribers, "subscribers", 0, "0: 100 for audio, 10 for video")
	flag.Float64Var(&p.Seconds, "seconds", 15, "how long to count")
	flag.Float64Var(&p.LossMax, "loss-max", 0.1, "loss that is still good, in percent")
	read(flag, arguments)
	defaults := map[string][2]int{"audio": {5, 100}, "video": {10, 10}}
	wanted, ok := defaults[p.Case]
	if !ok {
		refuse("--case %s: allowed is audio, video", p.Case)
	}
	if p.Publishers == 0 {
		p.Publishers = wanted[0]
	}
	if p.Subscribers == 0 {
		p.Subscribers = wanted[1]
	}
	switch {
	case p.Case == "audio" && p.Codec == "":
		p.Codec = "opus"
	case p.Case == "video" && p.Codec == "":
		p.Codec = "vp8"
	case p.Case == "video" && (p.Codec == "vp8" || p.Codec == "h264"):
	default:
		refuse("--codec %s: allowed is vp8, h264 with --case video, nothing with audio", p.Codec)
	}
	if p.dev == "" && (p.url == "" || p.key == "" || p.secret == "") {
		refuse("--dev, or --url with --key and --secret, is needed")
	}
	return p
}

func (p *parameters) capability() webrtc.RTPCodecCapability {
	switch p.Codec {
	case "vp8":
		return webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}
	case "h264":
		return webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, ClockRate: 90000,
			SDPFmtpLine: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"}
	default:
		return webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	}
}

// load runs one case and says whether all of it held.
func load(arguments []string) (any, bool, error) {
	p := readLoad(arguments)
	result, err := measure(p)
	if err != nil {
		return nil, false, err
	}
	return result, result.OK, nil
}

// gather lets n join, and returns all who did, even if one could not: they are to leave.
func gather[T any](p *parameters, n int, join func(*parameters, int) (*T, error)) ([]*T, error) {
	type ended struct {
		one *T
		err error
	}
	ends := make(chan ended)
	turns := make(chan struct{}, joinsAtOnce)
	for i := range n {
		go func() {
			turns <- struct{}{}
			one, err := join(p, i)
			<-turns
			ends <- ended{one, err}
		}()
	}
	var all []*T
	var first error
	for range n {
		end := <-ends
		if end.err == nil {
			all = append(all, end.one)
		} else if first == nil {
			first = end.err
		}
	}
	return all, first
}

func measure(p *parameters) (*summary, error) {
	began := time.Now()
	subscribers, err := gather(p, p.Subscribers, subscribe)
	defer func() {
		for _, one := range subscribers {
			one.leave()
		}
	}()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "%6.1f s  %d subscribers are in\n", time.Since(began).Seconds(), p.Subscribers)
	publishers, err := gather(p, p.Publishers, publish)
	defer func() {
		for _, one := range publishers {
			one.leave()
		}
	}()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "%6.1f s  %d publishers are in\n", time.Since(began).Seconds(), p.Publishers)
	waited := awaitTracks(subscribers, p.wantedEach(), 30*time.Second)
	time.Sleep(settle)
	for _, one := range subscribers {
		one.startCounting()
	}
	time.Sleep(time.Duration(p.Seconds * float64(time.Second)))
	result := summarise(p, subscribers)
	result.AllTracksSeconds = waited.Seconds()
	return result, nil
}
