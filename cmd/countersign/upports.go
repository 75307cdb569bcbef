package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/attest"
	"countersign.dev/internal/files"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/store"
)

// listen takes a port. One that was asked for must be free; one of ours by default gives way
// at the first start of a directory to a free one, which that directory keeps (cli.md 4.5).
func (h *house) listen(ctx context.Context, name, asked, standard string) (net.Listener, error) {
	kept := h.keptPorts()
	addr := asked
	switch {
	case asked != "":
	case kept[name] != "":
		addr = kept[name]
	case h.o.freePorts:
		addr = "127.0.0.1:0"
	default:
		addr = standard
	}
	ln, err := listenTCP(ctx, addr)
	// Nobody was told the port of health and metrics but by us: it may move at any start.
	if errors.Is(err, syscall.EADDRINUSE) && asked == "" && (kept[name] == "" || name == "health") {
		if ln, err = listenTCP(ctx, "127.0.0.1:0"); err == nil && !h.o.freePorts {
			h.e.say("note: %s is in use; %s listens on %s, and keeps it", addr, name, ln.Addr())
		}
	}
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			if pid, dir := h.otherUp(ctx, addr); pid != 0 {
				return nil, &admin.Problem{
					Code: "port_in_use", Message: fmt.Sprintf("listening on %s: the port is in use by another countersign", addr),
					Details: admin.Details{{Label: "holder", Value: fmt.Sprintf("pid %d, in %s", pid, dir)}},
					Hints:   []string{"COUNTERSIGN_DIR=" + word(dir) + " countersign down"},
				}
			}
		}
		return nil, portProblem(name, addr, err)
	}
	if asked == "" && kept[name] != ln.Addr().String() {
		kept[name] = ln.Addr().String()
		if err := h.keepPorts(kept); err != nil {
			ln.Close()
			return nil, err
		}
	}
	return ln, nil
}

// listenTCP opens a plain TCP listener: descriptors that programs hand over are compared with
// the kernel's tables of TCP, where MPTCP would not stand.
func listenTCP(ctx context.Context, addr string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(ctx, "tcp", addr)
}

func (h *house) keptPorts() map[string]string {
	kept := map[string]string{}
	if b, err := os.ReadFile(filepath.Join(h.data, "node", "ports.json")); err == nil {
		json.Unmarshal(b, &kept)
	}
	return kept
}

func (h *house) keepPorts(kept map[string]string) error {
	b, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(filepath.Join(h.data, "node"))
	if err != nil {
		return fmt.Errorf("keeping the ports: %w", err)
	}
	defer dir.Close()
	return files.WriteFile(dir, "ports.json", b)
}

func portProblem(name, addr string, err error) *admin.Problem {
	host, port, _ := net.SplitHostPort(addr)
	elsewhere := func(host, port string) []string {
		to := net.JoinHostPort(host, port)
		switch name {
		case "tokens":
			return []string{"in the file of --config: token: {listen: " + to + "}"}
		case "tokens-mtls":
			return []string{"in the file of --config: token: {mtlsListen: " + to + "}"}
		}
		return []string{"countersign up --inbound " + to}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		p := &admin.Problem{Code: "port_in_use", Message: fmt.Sprintf("listening on %s: the port is in use", addr)}
		if holder := holderOf(addr); holder != "" {
			p.Details = admin.Details{{Label: "holder", Value: holder}}
		}
		p.Hints = elsewhere(host, otherPort(port))
		return p
	case errors.Is(err, syscall.EACCES):
		return &admin.Problem{
			Code: "port_privileged", Message: fmt.Sprintf("listening on %s: ports below 1024 need a capability", addr),
			Hints: []string{"sudo setcap cap_net_bind_service=+ep " + executable()},
		}
	}
	return &admin.Problem{Code: "failed", Message: fmt.Sprintf("listening on %s: %s", addr, reason(err)), Hints: elsewhere("127.0.0.1", port)}
}

// isAddrPort reports whether s is an address of this machine and a port; 0 is any that is free.
func isAddrPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err == nil || host == "" || host == "localhost"
}

func otherPort(port string) string {
	var n int
	fmt.Sscan(port, &n)
	if n == 0 || n > 65000 {
		return "7543"
	}
	return fmt.Sprint(n + 100)
}

func executable() string {
	if x, err := os.Executable(); err == nil {
		return x
	}
	return "countersign"
}

// holderOf names who listens on an address, where the kernel tells.
func holderOf(addr string) string {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return ""
	}
	s, err := attest.ListenSocket(a.AddrPort())
	if err != nil || !s.Found {
		return ""
	}
	if pid, comm, ok := attest.HolderOf(s.Inode); ok {
		return fmt.Sprintf("%s, pid %d", comm, pid)
	}
	return ""
}

// readConfig reads the file of --config and puts the flags over it.
func (e *env) readConfig(o upOptions) (resource.Config, error) {
	c := resource.Config{SVIDTTL: time.Hour}
	if o.config != "" {
		b, err := os.ReadFile(o.config)
		if err != nil {
			return c, &admin.Problem{Code: "file_not_found", Message: fmt.Sprintf("reading %s: %s", o.config, reason(err))}
		}
		var faults []resource.Fault
		c, faults = resource.DecodeConfig(resource.File{Name: o.config, Data: b})
		if resource.Stops(faults) {
			noun := "faults"
			if len(faults) == 1 {
				noun = "fault"
			}
			return c, &admin.Problem{Code: "config", Message: fmt.Sprintf("reading %s: %d %s; nothing was started", o.config, len(faults), noun), Faults: faults}
		}
	}
	if o.trustDomain != "" {
		c.TrustDomain = o.trustDomain
	}
	if o.svidTTL != 0 {
		c.SVIDTTL = o.svidTTL
	}
	return c, nil
}

// reason is the plain word for a file error.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// passphrase reads the file that holds it; it is never an argument.
func (e *env) passphrase(file string) ([]byte, error) {
	if file == "" {
		file = os.Getenv("COUNTERSIGN_PASSPHRASE_FILE")
	}
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, &admin.Problem{Code: "file_not_found", Message: fmt.Sprintf("reading the passphrase in %s: %s", file, reason(err))}
	}
	if st, err := os.Stat(file); err == nil {
		e.warnOthers("the passphrase", file, st)
	}
	b = bytes.TrimRight(b, "\r\n")
	if len(b) == 0 {
		return nil, &admin.Problem{Code: "passphrase", Message: fmt.Sprintf("reading the passphrase in %s: it is empty", file)}
	}
	return b, nil
}

// warnOthers says that others can read a secret in a file: some systems hand them over so.
func (e *env) warnOthers(what, file string, st os.FileInfo) {
	if st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		e.say("warning: others can read %s in %s (%04o)", what, escape(file), st.Mode().Perm())
		e.say("hint: chmod 600 %s", word(file))
	}
}

// words gives the errors of starting the words of cli.md 9.2.
func (h *house) words(err error) error {
	var p *admin.Problem
	var dir *files.DirError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &dir):
		what, facts, _ := strings.Cut(dir.Detail, "\n")
		p := &admin.Problem{Code: dir.Code, Message: fmt.Sprintf("opening %s: %s", tilde(dir.Path), what)}
		for line := range strings.Lines(facts) {
			label, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			p.Details = append(p.Details, admin.Detail{Label: label, Value: strings.TrimSpace(value)})
		}
		if dir.Hint != "" {
			p.Hints = []string{dir.Hint}
		}
		return p
	case errors.Is(err, store.ErrPassphraseNeeded), errors.Is(err, store.ErrPassphraseWrong), errors.Is(err, store.ErrPassphraseUnused):
		hint := "countersign up --passphrase-file FILE"
		if errors.Is(err, store.ErrPassphraseUnused) {
			hint = "countersign up"
		}
		return &admin.Problem{Code: "passphrase", Message: err.Error(), Hints: []string{hint}}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, store.ErrNoSpace):
		return &admin.Problem{Code: "disk_full", Message: "writing the store: no space left on " + h.data}
	}
	return &admin.Problem{Code: "failed", Message: "starting: " + strings.TrimPrefix(err.Error(), "starting: ")}
}
