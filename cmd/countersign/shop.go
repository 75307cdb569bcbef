package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The shop of `demo`: ordinary HTTP programs that know nothing of policies or TLS, and that
// customers call from outside. They call each other by name through HTTP_PROXY, as any program
// does, and listen where they are told. Each is a process of its own: `countersign shop ROLE`,
// a hidden command.
//
//	customer → the gateway → web  GET /orders/<n>, and POST /orders after every fourth, with a
//	                              token of the customers' own identity provider
//	partner  → the gateway → inventory   GET /stock/<n> with an API key, and GET /orders/<n>, which
//	                              that is not for
//	scraper  → the gateway → inventory   the same with a key of its own, more often than it may
//	stranger → the gateway        GET /orders/<n> with nothing
//	web      → orders             the same on the customer's behalf, with a token exchanged for that
//	web      → orders             GET /orders for nobody, which nobody allowed
//	orders   → inventory          GET /stock/<n> for each order asked for
//	orders   → payments           POST /payments for each order placed
//	intruder → payments           POST /payments, which nobody allowed
//	intruder → orders             GET /orders/<n> with a token that it stole from web

const (
	customerEvery = 25 * time.Millisecond
	reportEvery   = 500 * time.Millisecond
	intruderEvery = 100 * time.Millisecond
	shopCall      = 5 * time.Second // longest time for one call
)

// shopOptions are what the programs are told: where they listen, and where tokens lie.
type shopOptions struct {
	listen   string // all that serve
	shop     string // all that are outside: the URL of the shop's door
	roots    string // these: whose certificates they trust
	header   string // partner, scraper: the file of a header with its API key, as curl -H @FILE takes it
	token    string // customer: the file of its token
	clientID string // web: its SPIFFE ID
	leak     string // web: where it loses tokens; intruder: where it finds them
}

// shopCommand is a program of demo's shop: it is started by demo, not by people.
func shopCommand() *command {
	var o shopOptions
	return &command{
		name: "shop", hidden: true,
		summary:  "Be one of the programs of the demo's shop.",
		examples: []string{"countersign shop payments --listen 127.0.0.1:8081"},
		usage:    "ROLE [flags]",
		about: `An ordinary HTTP program that knows nothing of policies: web, orders,
payments, inventory, intruder; outside the mesh customer, partner, scraper,
stranger.`,
		flags: func(f *flags) {
			f.text(&o.listen, "listen", "ADDR:PORT", "where it serves: web, orders, payments, inventory")
			f.text(&o.shop, "shop", "URL", "customer, partner, scraper, stranger: the shop's door")
			f.text(&o.roots, "roots", "FILE", "these: whose certificates they trust")
			f.text(&o.header, "header", "FILE", "partner, scraper: the header that holds its API key")
			f.text(&o.token, "token", "FILE", "customer: its token")
			f.text(&o.clientID, "client-id", "ID", "web: as what it asks the token service")
			f.text(&o.leak, "leak", "FILE", "where web leaves tokens lying, and the intruder looks")
		},
		see: "countersign demo",
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 1 {
				return usage("shop needs one role", "countersign demo")
			}
			if status := shop(ctx, args[0], o, e.out, e.err); status != 0 {
				return exit(status)
			}
			return nil
		},
	}
}

// shop runs one role until ctx ends or a signal comes.
func shop(ctx context.Context, role string, o shopOptions, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	// The default transport: whatever the environment says of proxies holds.
	s := &shopRole{name: role, shopOptions: o, client: &http.Client{Timeout: shopCall}, out: stdout, err: stderr}
	if o.roots != "" {
		var err error
		if s.client, err = outside(o.shop, o.roots); err != nil {
			fmt.Fprintf(stderr, "shop %s: %v\n", role, err)
			return 1
		}
	}
	return s.run(ctx)
}

// shopRole is one program of the shop.
type shopRole struct {
	name string
	shopOptions
	client   *http.Client
	out, err io.Writer
}

func (s *shopRole) run(ctx context.Context) int {
	mux := http.NewServeMux()
	switch s.name {
	case "customer":
		return s.loop(ctx, customerEvery, s.browse)
	case "partner":
		return s.loop(ctx, partnerEvery, s.supply)
	case "scraper":
		return s.loop(ctx, scraperEvery, s.scrape)
	case "stranger":
		return s.loop(ctx, strangerEvery, s.stray)
	case "intruder":
		return s.loop(ctx, intruderEvery, s.intrude)
	case "web":
		w := &web{shopRole: s, tokens: map[string]exchanged{}}
		mux.HandleFunc("GET /orders/{n}", w.askOrders)
		mux.HandleFunc("POST /orders", w.askOrders)
	case "orders":
		mux.HandleFunc("GET /orders/{n}", s.showOrder)
		mux.HandleFunc("POST /orders", s.placeOrder)
		mux.HandleFunc("GET /orders", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusOK, `{"orders":[1,2,3]}`)
		})
	case "payments":
		mux.HandleFunc("POST /payments", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusCreated, `{"paid":true}`)
		})
	case "inventory":
		mux.HandleFunc("GET /stock/{n}", func(w http.ResponseWriter, r *http.Request) {
			answer(w, http.StatusOK, fmt.Sprintf(`{"article":%q,"stock":12}`, r.PathValue("n")))
		})
	default:
		fmt.Fprintf(s.err, "shop: no role %q; web, orders, payments, inventory, intruder, customer, partner, scraper, stranger\n", s.name)
		return 2
	}
	if s.listen == "" {
		fmt.Fprintf(s.err, "shop %s: --listen is missing\n", s.name)
		return 2
	}
	ctx, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	if s.name == "web" {
		beside.Go(func() { s.loop(ctx, reportEvery, s.report) })
	}
	err := s.serve(ctx, mux)
	stop()
	beside.Wait()
	if err != nil {
		fmt.Fprintf(s.err, "shop %s: %v\n", s.name, err)
		return 1
	}
	return 0
}

// serve answers where it listens until ctx ends, and lets what is under way finish.
func (s *shopRole) serve(ctx context.Context, h http.Handler) error {
	ln, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s listens on %s\n", s.name, ln.Addr())
	srv := &http.Server{Handler: h, ReadHeaderTimeout: shopCall}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err = srv.Shutdown(grace); err != nil {
		err = srv.Close()
	}
	<-ended
	return err
}

// loop makes call after call, and says on stderr when their outcome changes.
func (s *shopRole) loop(ctx context.Context, every time.Duration, call func(ctx context.Context, n int) string) int {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for n := 1; ; n++ {
		if got := call(ctx, n); got != last && ctx.Err() == nil {
			fmt.Fprintf(s.err, "%s: %s\n", s.name, got)
			last = got
		}
		select {
		case <-ctx.Done():
			return 0
		case <-tick.C:
		}
	}
}

// browse is a customer's program, outside the mesh: four looks at an order, then a new one. The
// token of its identity provider is read for each call, for it is renewed there.
func (s *shopRole) browse(ctx context.Context, n int) string {
	method, url := "GET", fmt.Sprintf("%s/orders/%d", s.shop, n%1000)
	if n%5 == 0 {
		method, url = "POST", s.shop+"/orders"
	}
	status, err := s.call(ctx, method, url, readToken(s.token))
	switch {
	case err != nil:
		return err.Error()
	case status/100 != 2:
		return fmt.Sprintf("%s %s: %d", method, url, status)
	}
	return "orders are shown and placed"
}

// intrude tries what nobody allowed it to do, in turn with what a stolen token allows somebody
// else, and goes on when it is refused.
func (s *shopRole) intrude(ctx context.Context, n int) string {
	method, url, token := "POST", "http://payments/payments", ""
	if n%2 == 0 {
		if token = readToken(s.leak); token != "" {
			method, url = "GET", fmt.Sprintf("http://orders/orders/%d", n%1000)
		}
	}
	status, err := s.call(ctx, method, url, token)
	switch {
	case err != nil:
		return err.Error()
	case status/100 == 2:
		return method + " " + url + " went through, which nobody allowed"
	}
	return "refused, as it should be"
}

// readToken is what a file holds, "" if there is none yet.
func readToken(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (s *shopRole) showOrder(w http.ResponseWriter, r *http.Request) {
	s.relay(w, r, "GET", "http://inventory/stock/"+r.PathValue("n"), "", http.StatusOK)
}

func (s *shopRole) placeOrder(w http.ResponseWriter, r *http.Request) {
	s.relay(w, r, "POST", "http://payments/payments", "", http.StatusCreated)
}

// relay answers with status if the call that the answer needs goes well, and gives that call's.
func (s *shopRole) relay(w http.ResponseWriter, r *http.Request, method, url, token string, status int) (got int) {
	got, err := s.call(r.Context(), method, url, token)
	if err != nil || got/100 != 2 {
		unavailable(w)
	} else {
		answer(w, status, `{"order":"fine"}`)
	}
	return got
}

func unavailable(w http.ResponseWriter) {
	answer(w, http.StatusBadGateway, `{"error":"another part of the shop did not answer"}`)
}

// call shows token, unless it is empty, and gives the status of the answer.
func (s *shopRole) call(ctx context.Context, method, url, token string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return s.send(req)
}

func (s *shopRole) send(req *http.Request) (status int, err error) {
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	// Read to the end, so that the connection is used again.
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintln(w, body)
}
