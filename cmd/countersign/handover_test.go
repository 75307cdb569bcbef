package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// handOver is handover NAME:WHAT... -- COMMAND...: as a service manager it hands sockets over to the command. WHAT is
// an address that listens, or "file" for what is no socket.
func handOver() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	args := os.Args[1:]
	var names []string
	for len(args) > 0 && args[0] != "--" {
		name, what, _ := strings.Cut(args[0], ":")
		args = args[1:]
		file, err := os.Open(os.DevNull)
		if what != "file" {
			var ln net.Listener
			ln, err = net.Listen("tcp", what)
			fail(err)
			file, err = ln.(*net.TCPListener).File()
		}
		fail(err)
		fail(unix.Dup3(int(file.Fd()), 100+len(names), 0)) // where nothing of ours is
		names = append(names, name)
	}
	for i := range names {
		fail(unix.Dup3(100+i, firstHanded+i, 0))
		fail(unix.Close(100 + i))
	}
	path, err := exec.LookPath(args[1])
	fail(err)
	env := append(os.Environ(), "LISTEN_PID="+strconv.Itoa(os.Getpid()), "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	fail(syscall.Exec(path, args[1:], env))
}
