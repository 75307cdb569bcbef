package gatewayapi

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// pods plays the part of a cluster behind the API: a Deployment gets processes of the suite's echo server, each with
// an address of its own in 127.8.0.0/16, a Service with a selector gets its EndpointSlice.
type pods struct {
	t    testing.TB
	echo string   // the binary
	env  []string // of countersign's commands

	mu   sync.Mutex
	made int
}

// ports of an echo server in its pod.
var echoPorts = map[string]int{"HTTP_PORT": 3000, "H2C_PORT": 3001, "HTTPS_PORT": 8443}

func (p *pods) created(ctx context.Context, c *cluster, o client.Object) error {
	switch c.kind(o) {
	case "Deployment":
		d := new(appsv1.Deployment)
		if err := convert(o, d); err != nil {
			return err
		}
		return p.deploy(ctx, c, d)
	case "Service":
		s := new(corev1.Service)
		if err := convert(o, s); err != nil {
			return err
		}
		return p.endpoints(ctx, c, s)
	}
	return nil
}

func convert(o client.Object, to any) error {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, to)
	}
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(m, to)
}

func (p *pods) deploy(ctx context.Context, c *cluster, d *appsv1.Deployment) error {
	n := 1
	if d.Spec.Replicas != nil {
		n = int(*d.Spec.Replicas)
	}
	for i := range n {
		p.mu.Lock()
		p.made++
		number := p.made
		p.mu.Unlock()
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: fmt.Sprintf("%s-pod-%d", d.Name, i), Labels: d.Spec.Template.Labels},
			Spec:       d.Spec.Template.Spec,
		}
		ip := fmt.Sprintf("127.8.0.%d", number)
		if err := p.start(pod, ip); err != nil {
			return err
		}
		pod.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		}
		if err := c.Client.Create(ctx, pod); err != nil {
			return err
		}
	}
	var services corev1.ServiceList
	if err := c.Client.List(ctx, &services, client.InNamespace(d.Namespace)); err != nil {
		return err
	}
	for i := range services.Items {
		if err := p.endpoints(ctx, c, &services.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

// start runs the echo server of a pod. Others than the plain one are not asked for by a feature that is built.
func (p *pods) start(pod *corev1.Pod, ip string) error {
	cmd := exec.Command(p.echo)
	cmd.Env = []string{"POD_NAME=" + pod.Name, "NAMESPACE=" + pod.Namespace}
	for _, e := range pod.Spec.Containers[0].Env {
		switch e.Name {
		case "GRPC_ECHO_SERVER", "TCP_ECHO_SERVER", "UDP_ECHO_SERVER":
			return nil
		case "SERVICE_NAME":
			cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
		}
	}
	if pod.Labels["app"] == "coredns" {
		return nil
	}
	for name, port := range echoPorts {
		free, err := net.Listen("tcp", ":0")
		if err != nil {
			return err
		}
		behind := free.Addr().(*net.TCPAddr).Port
		_ = free.Close()
		cmd.Env = append(cmd.Env, name+"="+strconv.Itoa(behind))
		if err := p.forward(net.JoinHostPort(ip, strconv.Itoa(port)), net.JoinHostPort("127.0.0.1", strconv.Itoa(behind))); err != nil {
			return err
		}
	}
	if os.Getenv("CONFORMANCE_ECHO_LOG") != "" {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return nil
}

// forward gives a pod's port at its own address: the echo server listens on all of them.
func (p *pods) forward(at, to string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	p.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					_, _ = io.Copy(out, in)
					_ = out.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return nil
}

// endpoints writes the EndpointSlice of a Service with a selector.
func (p *pods) endpoints(ctx context.Context, c *cluster, s *corev1.Service) error {
	if len(s.Spec.Selector) == 0 {
		return nil
	}
	var list corev1.PodList
	if err := c.Client.List(ctx, &list, client.InNamespace(s.Namespace), client.MatchingLabelsSelector{Selector: labels.SelectorFromSet(s.Spec.Selector)}); err != nil {
		return err
	}
	ready := true
	slice := &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta:  metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name + "-pods", Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, port := range s.Spec.Ports {
		name, number := port.Name, port.TargetPort.IntVal
		if port.TargetPort.Type == intstr.String || number == 0 {
			number = port.Port
		}
		protocol := corev1.ProtocolTCP
		if port.Protocol != "" {
			protocol = port.Protocol
		}
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol, AppProtocol: port.AppProtocol})
	}
	for i := range list.Items {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{list.Items[i].Status.PodIP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	if len(slice.Endpoints) == 0 {
		return nil
	}
	var there discoveryv1.EndpointSlice
	switch err := c.Client.Get(ctx, client.ObjectKeyFromObject(slice), &there); {
	case err == nil:
		slice.ResourceVersion = there.ResourceVersion
		if err := c.Client.Update(ctx, slice); err != nil {
			return err
		}
	case client.IgnoreNotFound(err) == nil:
		if err := c.Client.Create(ctx, slice); err != nil {
			return err
		}
	default:
		return err
	}
	return c.write(ctx, slice)
}
