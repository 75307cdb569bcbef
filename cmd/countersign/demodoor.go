package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/files"
)

const (
	partner = "partner"
	scraper = "scraper"

	headerFile = ".key" // of a partner: a header with its API key, as curl -H @FILE takes it
)

// writeDoor finds a port for the shop's door, and writes what the demo applies.
func (d *demo) writeDoor(ctx context.Context) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	d.door = admin.Door{Host: "shop.localhost", Port: uint16(port), Own: true}
	return d.login.writePolicies(port, d.h.server.Issuer())
}

// openDoor waits until the gateway shows its certificate, hands out what callers need, and
// starts them. They are outside the mesh: the door's URL and the roots are all that they know.
func (d *demo) openDoor(ctx context.Context) error {
	var made sync.WaitGroup
	var faults [3]error
	made.Go(func() { faults[0] = d.writeRoots(ctx) })
	made.Go(func() { faults[1] = d.makeKey(ctx, partner) })
	made.Go(func() { faults[2] = d.makeKey(ctx, scraper) })
	made.Wait()
	for _, err := range append(faults[:], d.login.renew(time.Now())) {
		if err != nil {
			return err
		}
	}
	inner := *d.e
	inner.dir = d.dir
	if !inner.opens(ctx, &d.door, wait{d: demoReady, given: true}) {
		return &admin.Problem{Code: "demo", Message: "starting the demo: the gateway does not open " + d.doorURL(), Hints: []string{"less " + tilde(filepath.Join(d.dir, "demo.log"))}}
	}
	for _, c := range []struct{ role, flag, file string }{
		{"customer", "--token", tokenFile}, {partner, "--header", partner + headerFile}, {scraper, "--header", scraper + headerFile}, {role: "stranger"},
	} {
		args := []string{"shop", c.role, "--shop", d.doorURL(), "--roots", filepath.Join(d.dir, rootsFile)}
		if c.flag != "" {
			args = append(args, c.flag, filepath.Join(d.dir, c.file))
		}
		if err := d.startChild(c.role, args...); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) doorURL() string { return fmt.Sprintf("https://%s:%d", d.door.Host, d.door.Port) }

func (d *demo) writeRoots(ctx context.Context) error {
	pem, err := d.client(ctx, "ca", "root")
	if err != nil {
		return err
	}
	if err := files.WriteFile(d.login.dir, rootsFile, pem); err != nil {
		return fmt.Errorf("writing the roots: %w", err)
	}
	return nil
}

// makeKey has an API key made, by which policy lets a partner see the stock and nothing else. It
// stands in the demo's directory and nowhere else.
func (d *demo) makeKey(ctx context.Context, name string) error {
	key, err := d.client(ctx, "key", "create", name, "--audience", "inventory", "--audience", "web", "--scope", "stock:read")
	if err != nil {
		return err
	}
	if err := files.WriteFile(d.login.dir, name+headerFile, append([]byte("X-API-Key: "), key...)); err != nil {
		return fmt.Errorf("handing %s its key: %w", name, err)
	}
	return nil
}
