package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Programs that scripts run as workloads: this test binary under other names, so that the
// suite needs nothing but Go.

// httpServer is httpserver PORT [HEADER...]: it answers every request on loopback with what was
// asked, and the values of these headers that came.
func httpServer() {
	ln, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	err = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
		for _, name := range os.Args[2:] {
			for _, v := range r.Header.Values(name) {
				fmt.Fprintf(w, " %s=%s", name, v)
			}
		}
		fmt.Fprintln(w)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// getURL is get [-H 'NAME: VALUE'|@FILE] STATUS [METHOD] URL: it calls through HTTP_PROXY, as any
// program does, prints status and body, and ends with 1 if the status is another.
func getURL() {
	args := os.Args[1:]
	name, value := "", ""
	if args[0] == "-H" {
		line := args[1]
		if file, ok := strings.CutPrefix(line, "@"); ok {
			b, err := os.ReadFile(file)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
			line = strings.TrimSuffix(string(b), "\n")
		}
		name, value, _ = strings.Cut(line, ": ")
		args = args[2:]
	}
	method := "GET"
	if len(args) == 3 {
		method, args = args[1], []string{args[0], args[2]}
	}
	req, err := http.NewRequest(method, args[1], nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if name != "" {
		req.Header.Set(name, value)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(addr); err == nil && strings.HasSuffix(host, ".localhost") { // as curl and browsers do
			addr = net.JoinHostPort("127.0.0.1", port)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: transport}
	res, err := client.Do(req)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	fmt.Printf("%d %s\n", res.StatusCode, strings.TrimSpace(string(body)))
	if fmt.Sprint(res.StatusCode) != args[0] {
		os.Exit(1)
	}
}

// rawRequest is raw HOST:PORT TEXT: it writes TEXT (with Go's escapes) to a plain TCP
// connection, or through HTTP_PROXY when HOST:PORT is "proxy", and prints the first line.
func rawRequest() {
	addr, text := os.Args[1], os.Args[2]
	if addr == "proxy" {
		_, addr, _ = strings.Cut(os.Getenv("HTTP_PROXY"), "@")
	}
	conn, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	r := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\e`, "\x1b", `\a`, "\a")
	io.WriteString(conn, r.Replace(text))
	line, _ := bufio.NewReader(conn).ReadString('\n')
	fmt.Println(strings.TrimSpace(line))
}

// endSo is end STATUS or end TERM: a program that ends so.
func endSo() {
	if status, err := strconv.Atoi(os.Args[1]); err == nil {
		os.Exit(status)
	}
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	select {}
}

// loseIdentity is loses: it calls through the proxy until it is no longer served, and then says
// whether its calls end at once.
func loseIdentity() {
	client := &http.Client{Timeout: 2 * time.Second}
	failed := 0
	for began := time.Now(); failed < 3 && time.Since(began) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		res, err := client.Get("http://nobody/")
		if err == nil {
			res.Body.Close()
			if err := os.WriteFile("served", nil, 0o600); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			continue
		}
		failed++
		if os.IsTimeout(err) {
			fmt.Println("hangs")
			os.Exit(1)
		}
	}
	if failed < 3 {
		fmt.Println("is still served")
		os.Exit(1)
	}
	fmt.Println("ends at once")
}
