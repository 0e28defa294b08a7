// Command sdk is made with LiveKit's Go SDK, unchanged: what works here works for any user of the SDK.
//
//	sdk load --dev http://127.0.0.1:7880 --case audio     5 audio publishers, 100 subscribers
//	sdk load --dev http://127.0.0.1:7880 --case video     10 VP8 simulcast publishers, 10 subscribers, 3×3 grid
//	sdk load --dev http://127.0.0.1:7880 --case video --codec h264
//	sdk load --url ws://host:7880 --key K --secret S --case audio --publishers 2 --subscribers 10 --seconds 10
//	sdk meet --url ws://host:7880 --room council --expect 1
//
// load counts what every subscriber received: which tracks, how many packets, how many were missing, which
// errors came. It passes if all wanted tracks came to everyone, without an error, with loss within --loss-max.
// meet joins with the key in LIVEKIT_API_KEY and LIVEKIT_API_SECRET, sends sound, and passes as soon as it has
// picture and sound from --expect others and the room service names them.
//
// Exit code 0: passed. 1: not. 2: bad arguments. The account is one JSON document on standard output.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
)

// acts by name: each returns its account, and whether everything held.
var acts = map[string]func(arguments []string) (any, bool, error){"load": load, "meet": meet}

func flags(act string) *flag.FlagSet {
	return flag.NewFlagSet("sdk "+act, flag.ExitOnError)
}

func read(set *flag.FlagSet, arguments []string) {
	_ = set.Parse(arguments)
	if set.NArg() > 0 {
		refuse("%s is not a flag", set.Arg(0))
	}
}

func refuse(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "sdk: "+format+"\n", values...)
	os.Exit(2)
}

func main() {
	if len(os.Args) < 2 || acts[os.Args[1]] == nil {
		refuse("the first argument is load or meet")
	}
	// The SDK's own log would drown the account; what fails comes back as an error.
	lksdk.SetLogger(logger.GetDiscardLogger())
	account, held, err := acts[os.Args[1]](os.Args[2:])
	if account != nil {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(account)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sdk: %v\n", err)
	}
	if err != nil || !held {
		os.Exit(1)
	}
}
