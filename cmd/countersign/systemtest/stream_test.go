//go:build system && linux

package systemtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// stream is stream SOCKET: it asks for X.509-SVIDs as any client does and says what comes,
// "svid" for a message and "end STATUS" when the stream is over. Meanwhile its input can make
// it another process than the one that asked:
//
//	exec PATH   become the program of that file, with the connection
//	setuid N    become another user
//
// It writes HTTP/2 itself, because no library survives either.
func stream(args []string) error {
	c, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	go obey(c.(*net.UnixConn))
	if err := askForSVIDs(c); err != nil {
		return err
	}
	return read(c)
}

// carry is carry FD: it goes on with a connection that was left to it.
func carry(args []string) error {
	fd, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	c, err := net.FileConn(os.NewFile(uintptr(fd), "stream"))
	if err != nil {
		return err
	}
	fmt.Println("carrying")
	return read(c)
}

func obey(c *net.UnixConn) {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch word {
		case "exec":
			err = become(c, arg)
		case "setuid":
			uid, _ := strconv.Atoi(arg)
			if err = syscall.Setuid(uid); err == nil {
				fmt.Println("uid", uid)
			}
		}
		if err != nil {
			fmt.Println("error:", err)
		}
	}
	os.Exit(0)
}

func become(c *net.UnixConn, path string) error {
	f, err := c.File()
	if err != nil {
		return err
	}
	fd := int(f.Fd())
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return err
	}
	return syscall.Exec(path, []string{"prog", "carry", strconv.Itoa(fd)}, os.Environ())
}

func askForSVIDs(w io.Writer) error {
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, kv := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/SpiffeWorkloadAPI/FetchX509SVID"}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"workload.spiffe.io", "true"},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: kv[0], Value: kv[1]}); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, http2.ClientPreface); err != nil {
		return err
	}
	f := http2.NewFramer(w, nil)
	return errors.Join(
		f.WriteSettings(),
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}),
		f.WriteData(1, true, make([]byte, 5)), // one empty message
	)
}

// read says what comes on the stream. After a change of program the compression of headers is
// lost, and with it the status; that the stream is over is told all the same.
func read(c net.Conn) error {
	f := http2.NewFramer(c, c)
	table := map[string]string{}
	dec := hpack.NewDecoder(4096, func(h hpack.HeaderField) { table[h.Name] = h.Value })
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			fmt.Println("end", err)
			return nil
		}
		switch x := frame.(type) {
		case *http2.SettingsFrame:
			if !x.IsAck() {
				f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !x.IsAck() {
				f.WritePing(true, x.Data)
			}
		case *http2.DataFrame:
			if len(x.Data()) > 0 {
				fmt.Println("svid")
			}
		case *http2.HeadersFrame:
			dec.Write(x.HeaderBlockFragment())
			if x.StreamEnded() {
				fmt.Println("end", table["grpc-status"])
				return nil
			}
		case *http2.RSTStreamFrame:
			fmt.Println("end reset")
			return nil
		}
	}
}
