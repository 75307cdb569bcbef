//go:build system && linux

package systemtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

// program is what prog does: the programs that tests run as workloads and as strangers.
func program(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "prog: of what kind?")
		return 2
	}
	kinds := map[string]func([]string) error{
		"serve": serve, "puppet": bePuppet, "hold": hold, "fetch": fetch, "stream": stream, "carry": carry, "flood": floodProgram, "die": die, "drip": drip,
	}
	kind, ok := kinds[args[0]]
	if !ok {
		fmt.Fprintf(os.Stderr, "prog: %q is no kind\n", args[0])
		return 2
	}
	if err := kind(args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "prog:", err)
		return 1
	}
	return 0
}

// seen is what a workload saw of one request.
type seen struct {
	Method, Path string
	Header       http.Header
	PID          int
}

// serve is serve ADDR: it answers every request with what it saw of it, and /seen with all
// paths since it began.
func serve(args []string) error {
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards paths
	var paths []string
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/seen" {
			json.NewEncoder(w).Encode(paths)
			return
		}
		paths = append(paths, r.URL.Path)
		json.NewEncoder(w).Encode(seen{r.Method, r.URL.Path, r.Header, os.Getpid()})
	}))
}

// bePuppet does what each line of stdin says, and answers with one line. It ends with its input.
func bePuppet([]string) error {
	var p hands
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := p.pull(lines.Text())
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(strconv.Quote(answer))
	}
	return lines.Err()
}

// hold is hold NETWORK ADDR N [PAYLOAD]: it keeps N connections open until its input ends,
// opens others for those that are closed, and says once that all were opened. The network tls
// is TCP with a handshake, tls:DIR with the certificate in DIR too.
func hold(args []string) error {
	dial := net.Dial
	if network, dir, withCert := strings.Cut(args[0], ":"); network == "tls" {
		cfg := &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", CurvePreferences: []tls.CurveID{tls.X25519}}
		if withCert {
			cert, err := tls.LoadX509KeyPair(dir+"/svid.pem", dir+"/key.pem")
			if err != nil {
				return err
			}
			cfg.Certificates = []tls.Certificate{cert}
		}
		dial = func(_, addr string) (net.Conn, error) { return tls.Dial("tcp", addr, cfg) }
	}
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	payload := ""
	if len(args) > 3 {
		if payload, err = strconv.Unquote(`"` + args[3] + `"`); err != nil {
			return err
		}
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur < uint64(count+64) {
		return fmt.Errorf("%d files may be open, %d connections are asked for", limit.Cur, count)
	}
	closed := make(chan struct{}, count)
	for range count {
		closed <- struct{}{}
	}
	go func() {
		tick := time.NewTicker(time.Millisecond) // a stranger in no hurry is enough
		for opened := 0; ; <-tick.C {
			for range 4 {
				<-closed
				if c, err := dial(args[0], args[1]); err == nil {
					io.WriteString(c, payload)
					go func() {
						io.Copy(io.Discard, c)
						c.Close()
						closed <- struct{}{}
					}()
				} else {
					closed <- struct{}{}
				}
				if opened++; opened == count {
					fmt.Println("held")
				}
			}
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// fetched is what fetch prints.
type fetched struct {
	IDs      []string
	Keys     []string // PKCS #8, base64
	X509     string   // status of the X.509 call
	JWT      string   // and of the JWT call
	Verified bool     // the chain holds against the bundle that came with it
}

// fetch is fetch [DIR]: an ordinary go-spiffe program. It takes its SVIDs from
// SPIFFE_ENDPOINT_SOCKET, says what it got, and leaves the first in DIR.
func fetch(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	var got fetched
	x, err := client.FetchX509Context(ctx)
	got.X509 = status.Code(err).String()
	if err == nil {
		for _, s := range x.SVIDs {
			_, key, err := s.MarshalRaw()
			if err != nil {
				return err
			}
			got.IDs = append(got.IDs, s.ID.String())
			got.Keys = append(got.Keys, base64.StdEncoding.EncodeToString(key))
		}
		own := x.DefaultSVID()
		_, _, err := x509svid.Verify(own.Certificates, x.Bundles)
		got.Verified = err == nil
		if len(args) > 0 {
			if err := leave(args[0], own); err != nil {
				return err
			}
		}
	}
	_, err = client.FetchJWTBundles(ctx)
	got.JWT = status.Code(err).String()
	return json.NewEncoder(os.Stdout).Encode(got)
}

func leave(dir string, s *x509svid.SVID) error {
	chain, key, err := s.Marshal()
	if err != nil {
		return err
	}
	if block, _ := pem.Decode(key); block == nil {
		return errors.New("the key is no PEM")
	}
	if err := os.WriteFile(dir+"/svid.pem", chain, 0o600); err != nil {
		return err
	}
	return os.WriteFile(dir+"/key.pem", key, 0o600)
}

// floodProgram is flood KIND URL: it asks as often as it can until its input says end, and then
// says how often it got which status. The kinds are secret, a wrong one, and get.
func floodProgram(args []string) error {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}, MaxIdleConnsPerHost: 8}
	client := http.Client{Transport: tr, Timeout: 5 * time.Second}
	var mu sync.Mutex // guards counts
	counts, total := map[int]int{}, 0
	for range 4 {
		go func() {
			for {
				req, err := http.NewRequest(http.MethodGet, args[1], nil)
				if args[0] == "secret" {
					req, err = http.NewRequest(http.MethodPost, args[1], strings.NewReader("grant_type=client_credentials"))
					req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					req.SetBasicAuth("ci", "css_wrong")
				}
				if err != nil {
					panic(err)
				}
				status := 0
				if resp, err := client.Do(req); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					status = resp.StatusCode
				}
				mu.Lock()
				counts[status]++
				if total++; total == 500 {
					fmt.Println("flooding")
				}
				mu.Unlock()
			}
		}()
	}
	bufio.NewReader(os.Stdin).ReadString('\n')
	mu.Lock()
	defer mu.Unlock()
	var words []string
	for status, n := range counts {
		words = append(words, fmt.Sprintf("%d:%d", status, n))
	}
	fmt.Println(strings.Join(words, " "))
	return nil
}

// die is die ADDR: it dies of the first request.
func die(args []string) error {
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return http.Serve(ln, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { syscall.Kill(os.Getpid(), syscall.SIGABRT) }))
}

// drip is drip ADDR: its answers have no end.
func drip(args []string) error {
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			fmt.Fprintln(w, "drop")
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	}))
}
