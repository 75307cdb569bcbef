package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// WhoAmI asks the Workload API at endpoint (unix:///path) for the default SPIFFE ID of this
// process. Keys come with the answer and are dropped.
func WhoAmI(ctx context.Context, endpoint string) (id string, err error) {
	path, ok := strings.CutPrefix(endpoint, "unix:")
	if !ok || !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("asking who this is: %q is not unix:///PATH", endpoint)
	}
	conn, err := grpc.NewClient("unix:"+strings.TrimPrefix(path, "//"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig())
	if err != nil {
		return "", fmt.Errorf("asking who this is: %w", err)
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return "", fmt.Errorf("asking who this is: %w", err)
	}
	answer, err := stream.Recv()
	if err != nil {
		return "", errors.New(status.Convert(err).Message())
	}
	if len(answer.Svids) == 0 {
		return "", errors.New("the answer holds no identity")
	}
	return answer.Svids[0].SpiffeId, nil
}
