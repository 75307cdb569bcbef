package proxy

import (
	"net/netip"
)

// seat counts a connection among those of the port and among those of all Gateways; false: there is no place for it.
// Where all users of this machine are one address, the one that does nothing for longest makes room, so that what one of
// them holds does not keep out the others.
func (d *door) seat(l *link) bool {
	var most, each int
	l.place = placeOf(l.src.Addr())
	if port := d.run.p.view.Load().port(d); port != nil {
		most, each = port.MaxConnections, port.MaxPerSource
		if port.Proxied(l.src.Addr()) {
			l.place = netip.Prefix{}
		}
	}
	local := l.src.Addr().IsLoopback()
	if !d.crowd.enter(l.place, most, each) && (!local || !d.run.p.makeRoom(d) || !d.crowd.enter(l.place, most, each)) {
		return false
	}
	all := &d.run.p.crowd
	if !all.enter(netip.Prefix{}, 0, 0) && (!local || !d.run.p.makeRoom(nil) || !all.enter(netip.Prefix{}, 0, 0)) {
		d.crowd.leave(l.place)
		return false
	}
	return true
}

// unseat undoes one seat that was true.
func (d *door) unseat(l *link) {
	d.crowd.leave(l.place)
	d.run.p.crowd.leave(netip.Prefix{})
}

// makeRoom ends the connection at a door, or at any, that was opened longest ago and does nothing.
func (p *Proxy) makeRoom(at *door) bool {
	var oldest *link
	for _, r := range p.all() {
		if len(r.doors) == 0 {
			continue
		}
		r.open.each(func(l *link) {
			if (at == nil || l.door == at) && l.active.Load() == 0 && !l.gone.Load() && (oldest == nil || l.number < oldest.number) {
				oldest = l
			}
		})
	}
	if oldest == nil {
		return false
	}
	oldest.close()
	oldest.run.open.remove(oldest)
	return true
}
