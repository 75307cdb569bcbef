package grant

// Find is the canonical audience of a value as people write it: the value itself, one of the
// resources of its record, or the name of a service, a bare one in namespace ns.
func (d *Directory) Find(value, ns string) (canonical string, ok bool) {
	if canonical, ok = d.resources[value]; ok {
		return canonical, true
	}
	return d.find(value, ns)
}
