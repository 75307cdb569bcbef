//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// EdgeRow is one number of connections, of one protocol.
type EdgeRow struct {
	Protocol    string  `json:"protocol"`
	Connections int     `json:"connections"`
	Ours        *Cell   `json:"ours"`
	Mesh        *Cell   `json:"ours_to_the_mesh"`
	Caddy       *Cell   `json:"caddy,omitempty"`
	Nginx       *Cell   `json:"nginx,omitempty"`
	ToCaddy     float64 `json:"ratio_caddy,omitempty"`
	ToNginx     float64 `json:"ratio_nginx,omitempty"`
	MeshToCaddy float64 `json:"ratio_mesh_caddy,omitempty"`
}

// Calls is one hop at the edge beside others.
type Calls struct {
	Caddy string    `json:"caddy,omitempty"` // version
	Nginx string    `json:"nginx,omitempty"`
	Rows  []EdgeRow `json:"rows"`
}

// calls measures what a request costs at the Gateway, beside Caddy and nginx with TLS alone.
func (s *stand) calls(ctx context.Context) (*Calls, error) {
	f, err := s.front(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := f.api(ctx); err != nil {
		return nil, err
	}
	caddy, err := s.caddyDoor(ctx, f.backend)
	if err != nil {
		return nil, err
	}
	nginx, err := s.nginxDoor(ctx, f.backend)
	if err != nil {
		return nil, err
	}
	if err := f.until(ctx, "api answers through the Gateway", func() bool {
		t, err := f.load.drive(f.order("mesh.test", edgeID, false, 1, 0, 50*time.Millisecond))
		return err == nil && t.Failed == 0 && t.All > 0
	}); err != nil {
		return nil, err
	}
	res := &Calls{}
	if caddy != nil {
		res.Caddy = caddy.version
	}
	if nginx != nil {
		res.Nginx = nginx.version
	}
	for _, h2 := range []bool{false, true} {
		for _, conns := range connections {
			row := EdgeRow{Protocol: map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[h2], Connections: conns}
			subjects := []*subject{
				{name: "ours", order: f.order(edgeHost, "xxxx", h2, conns, 0, 0), up: f.up},
				{name: "ours to the mesh", order: f.order("mesh.test", edgeID, h2, conns, 0, 0), up: f.up},
				caddy.subject(h2), nginx.subject(h2),
			}
			cells := []**Cell{&row.Ours, &row.Mesh, &row.Caddy, &row.Nginx}
			got := make([][]Cell, len(subjects))
			for round := range s.rounds {
				for i, sub := range subjects {
					if sub == nil {
						continue
					}
					s.say("%s, %d connections, round %d of %d: %s", row.Protocol, conns, round+1, s.rounds, sub.name)
					c, err := sub.cell(ctx, s, f.load, conns)
					if err != nil {
						return nil, err
					}
					got[i] = append(got[i], c)
				}
			}
			for i := range cells {
				*cells[i] = median(got[i])
			}
			if row.Caddy != nil {
				row.ToCaddy, row.MeshToCaddy = row.Ours.CPU/row.Caddy.CPU, row.Mesh.CPU/row.Caddy.CPU
			}
			if row.Nginx != nil {
				row.ToNginx = row.Ours.CPU / row.Nginx.CPU
			}
			res.Rows = append(res.Rows, row)
		}
	}
	s.crew.end()
	return res, nil
}

// subject is nil for who is not there.
func (p *peer) subject(h2 bool) *subject {
	if p == nil {
		return nil
	}
	return &subject{name: p.name, order: order{Addr: p.addr, Want: "xxxx", PIDs: p.pids, Edge: &edge{Host: edgeHost, Root: p.root, H2: h2}}}
}

func (c *Calls) print(out io.Writer) {
	fmt.Fprintln(out, "\none hop at the edge, CPU µs per request (median, least and most of the rounds): ours with token, policy, limit and record, theirs with TLS alone")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\tconnections\tours\t\tCaddy %s\t\tnginx %s\t\tto Caddy\taim\t\tto nginx\tallocs\tbytes\tmesh backend\tto Caddy\t\n", c.Caddy, c.Nginx)
	aim := atMost(1, "")
	for _, r := range c.Rows {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t", r.Protocol, r.Connections, r.Ours, r.Caddy, r.Nginx)
		fmt.Fprintf(w, "%.2f\t%s\t%s\t%.2f\t%.0f\t%.0f\t%.1f\t%.2f\t\n", r.ToCaddy, aim, aim.mark(r.ToCaddy), r.ToNginx, r.Ours.Allocs, r.Ours.AllocBytes, r.Mesh.CPU, r.MeshToCaddy)
	}
	w.Flush()
}
