package grant

// Find is the canonical audience of a value as people write it: the value itself, or the name
// of a service, a bare one in namespace ns.
func (d *Directory) Find(value, ns string) (canonical string, ok bool) { return d.find(value, ns) }
