package v1beta1

//lint:file-ignore SA1019 KMS v1 is deprecated; what it wrote has to be served all the same.

import (
	kmsapi "k8s.io/kms/apis/v1beta1"

	"github.com/keyfold/keyfold/kmsv2"
)

// Handler is what Register registers, without the socket and the memory that gRPC
// takes for a request before anybody has seen it.
func Handler(svc *kmsv2.Service) kmsapi.KeyManagementServiceServer {
	return &server{svc: svc, version: moduleVersion()}
}
