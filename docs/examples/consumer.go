// SPDX-License-Identifier: Apache-2.0
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
)

func main() {
	path := append(os.Args, "/run/notif-relayd/notifications.sock")[1]
	relay, err := net.Dial("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintln(relay, `{"filter": {"priority": ["ERROR"]}}`)
	records := bufio.NewReader(relay)
	for {
		record, err := records.ReadBytes('\n')
		if err != nil {
			return // the relay has closed the connection: reconnect to continue
		}
		var notification map[string]any
		if json.Unmarshal(record, &notification) != nil {
			continue
		}
		if notification["event_type"] != "notif_relayd.subscribed" {
			fmt.Println(notification["event_type"], notification["payload"])
		}
	}
}
