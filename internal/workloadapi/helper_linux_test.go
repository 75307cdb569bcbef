package workloadapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Some tests need a caller that is another process: this binary, started again with helperVar
// set to what it shall do.
const helperVar = "WORKLOADAPI_TEST_HELPER"

func TestMain(m *testing.M) {
	do, arg, _ := strings.Cut(os.Getenv(helperVar), " ")
	switch do {
	case "":
		os.Exit(m.Run())
	case "fetch":
		helperFetch(arg)
	case "listen":
		helperListen(arg)
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// helperFetch takes its SVID from the socket and then obeys its input: "exec FILE" becomes
// another program that holds the connection, "exit" ends, "recv" waits for the next message.
func helperFetch(socket string) {
	fds := make(chan int, 1)
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			c, err := net.Dial("unix", socket)
			check(err)
			file, err := c.(*net.UnixConn).File() // a duplicate, to survive exec
			check(err)
			fd, err := unix.Dup(int(file.Fd()))
			check(err)
			fds <- fd
			return c, nil
		}))
	check(err)
	ctx := metadata.AppendToOutgoingContext(context.Background(), headerName, "true")
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	check(err)
	for in := bufio.NewReader(os.Stdin); ; {
		r, err := stream.Recv()
		check(err)
		fmt.Println("ok", r.Svids[0].Hint)
		line, err := in.ReadString('\n')
		check(err)
		switch f := strings.Fields(line); f[0] {
		case "exec":
			check(os.Setenv(helperVar, "listen "+strconv.Itoa(<-fds)))
			check(syscall.Exec(f[1], f[1:], os.Environ()))
		case "exit":
			os.Exit(0)
		}
	}
}

// helperListen reads what still comes over the inherited connection until it is asked what
// that was.
func helperListen(arg string) {
	fd, err := strconv.Atoi(arg)
	check(err)
	fmt.Println("ok")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	check(unix.SetNonblock(fd, true))
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if n <= 0 || err != nil {
			break
		}
		got.Write(buf[:n])
	}
	fmt.Printf("ok %d bytes, second %v\n", got.Len(), bytes.Contains(got.Bytes(), []byte("second")))
}

// child is a helper that runs.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t *testing.T, program, do string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(program)}
	c.cmd.Env = append(os.Environ(), helperVar+"="+do)
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.in.Close()
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	})
	return c
}

func (c *child) send(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) answer() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("helper said %q, then %v", line, err)
	}
	return strings.TrimSpace(line)
}

const patience = 20 * time.Second
