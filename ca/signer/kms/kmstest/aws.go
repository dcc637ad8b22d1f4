// SPDX-License-Identifier: Apache-2.0

package kmstest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const awsAccount = "111122223333"

// AWS is AWS KMS in one region.
type AWS struct {
	service
	region      string
	credentials aws.Credentials
	keys        map[string]awsKey // by ARN and by alias; guarded by mu
}

type awsKey struct {
	crypto.Signer
	arn        string
	algorithms []string
}

// NewAWS serves AWS KMS in region.
func NewAWS(n *Internet, region string) *AWS {
	n.t.Helper()
	a := &AWS{region: region, keys: map[string]awsKey{}, credentials: aws.Credentials{AccessKeyID: "AKIA" + rand.Text()[:16], SecretAccessKey: rand.Text()}}
	n.Serve("kms."+region+".amazonaws.com", a.service.handler(a.answer, refuseAWS))
	return a
}

// Setenv puts the credentials in the environment.
func (a *AWS) Setenv(t *testing.T) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", a.credentials.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", a.credentials.SecretAccessKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// Secret returns the secret half of the credentials.
func (a *AWS) Secret() string { return a.credentials.SecretAccessKey }

// Add adds key, also under alias if that is not empty, and returns its ARN. The key signs with
// algorithms, listed in the service's order; none for all of the key's kind.
func (a *AWS) Add(key crypto.Signer, alias string, algorithms ...string) (arn string) {
	id := strings.ToLower(hex.EncodeToString([]byte(rand.Text()[:16])))
	arn = fmt.Sprintf("arn:aws:kms:%s:%s:key/%s-%s-%s-%s-%s", a.region, awsAccount, id[:8], id[8:12], id[12:16], id[16:20], id[20:])
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		algorithms = append(algorithms, fmt.Sprintf("ECDSA_SHA_%d", min(public.Params().BitSize, 512)))
	case *rsa.PublicKey:
		if len(algorithms) == 0 {
			algorithms = []string{"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512", "RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512"}
		}
	}
	a.put(awsKey{key, arn, algorithms}, alias)
	return arn
}

// AddEncryption adds a key that decrypts and does not sign, and returns its ARN.
func (a *AWS) AddEncryption(key crypto.Signer) (arn string) {
	arn = fmt.Sprintf("arn:aws:kms:%s:%s:key/00000000-0000-0000-0000-000000000000", a.region, awsAccount)
	a.put(awsKey{key, arn, nil}, "")
	return arn
}

func (a *AWS) put(key awsKey, alias string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, id, _ := strings.Cut(key.arn, "key/")
	a.keys[key.arn], a.keys[id] = key, key
	if alias != "" {
		a.keys["alias/"+alias] = key
	}
}

func refuseAWS(w http.ResponseWriter, err *refusal) {
	codes := map[int]string{http.StatusForbidden: "AccessDeniedException", http.StatusTooManyRequests: "ThrottlingException"}
	status, code := err.status, err.code
	if renamed, ok := codes[status]; ok {
		status, code = http.StatusBadRequest, renamed
	} else if status == http.StatusInternalServerError {
		code = "KMSInternalException"
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", rand.Text())
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": err.message})
}

func (a *AWS) answer(r *http.Request, body []byte) ([]byte, error) {
	if err := a.authenticate(r, body); err != nil {
		return nil, err
	}
	var request struct {
		KeyID            string `json:"KeyId"`
		Message          []byte
		MessageType      string
		SigningAlgorithm string
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	a.mu.Lock()
	key, ok := a.keys[request.KeyID]
	a.mu.Unlock()
	if !ok {
		return nil, &refusal{http.StatusBadRequest, "NotFoundException", fmt.Sprintf("Key '%s' does not exist", request.KeyID)}
	}
	spec := awsSpec(key.Public())
	usage := "SIGN_VERIFY"
	if key.algorithms == nil {
		usage = "ENCRYPT_DECRYPT"
	}
	switch target := r.Header.Get("X-Amz-Target"); target {
	case "TrentService.GetPublicKey":
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		return json.Marshal(map[string]any{"KeyId": key.arn, "PublicKey": der, "KeyUsage": usage, "KeySpec": spec, "CustomerMasterKeySpec": spec, "SigningAlgorithms": key.algorithms})
	case "TrentService.DescribeKey":
		return json.Marshal(map[string]any{"KeyMetadata": map[string]any{
			"AWSAccountId": awsAccount, "Arn": key.arn, "KeyId": key.arn, "CreationDate": 1767225600.5, "Enabled": true, "KeyManager": "CUSTOMER", "KeyState": "Enabled",
			"Origin": "AWS_KMS", "MultiRegion": false, "KeyUsage": usage, "KeySpec": spec, "CustomerMasterKeySpec": spec, "SigningAlgorithms": key.algorithms,
		}})
	case "TrentService.Sign":
		signature, err := a.signAWS(key, request.Message, request.MessageType, request.SigningAlgorithm)
		if err != nil {
			return nil, err
		}
		return json.Marshal(map[string]any{"KeyId": key.arn, "Signature": signature, "SigningAlgorithm": request.SigningAlgorithm})
	default:
		return nil, &refusal{http.StatusBadRequest, "UnknownOperationException", target}
	}
}

func awsSpec(public crypto.PublicKey) string {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ECC_NIST_P%d", public.Params().BitSize)
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA_%d", public.N.BitLen())
	default:
		return "ECC_NIST_EDWARDS25519"
	}
}

func (a *AWS) signAWS(key awsKey, message []byte, messageType, algorithm string) ([]byte, error) {
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	offered := false
	for _, name := range key.algorithms {
		offered = offered || name == algorithm
	}
	if !offered {
		return nil, &refusal{http.StatusBadRequest, "InvalidKeyUsageException", algorithm}
	}
	if messageType != "DIGEST" {
		return nil, &refusal{http.StatusBadRequest, "ValidationException", "a digest is wanted"}
	}
	return a.sign(key, message, hashes[algorithm[len(algorithm)-3:]], strings.Contains(algorithm, "PSS"))
}

// authenticate computes the request's signature again and compares it.
func (a *AWS) authenticate(r *http.Request, body []byte) error {
	given := r.Header.Get("Authorization")
	_, scope, _ := strings.Cut(given, "Credential=")
	scope, rest, _ := strings.Cut(scope, ", SignedHeaders=")
	if !strings.HasPrefix(scope, a.credentials.AccessKeyID+"/") {
		return &refusal{http.StatusBadRequest, "UnrecognizedClientException", "The security token included in the request is invalid."}
	}
	again, err := http.NewRequestWithContext(context.Background(), r.Method, "https://"+r.Host+r.URL.RequestURI(), nil)
	if err != nil {
		return err
	}
	again.ContentLength = int64(len(body))
	names, _, _ := strings.Cut(rest, ", ")
	for name := range strings.SplitSeq(names, ";") {
		if values := r.Header.Values(name); len(values) > 0 && name != "content-length" {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	when, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(context.Background(), a.credentials, again, hex.EncodeToString(sum[:]), "kms", a.region, when); err != nil {
		return err
	}
	if again.Header.Get("Authorization") != given {
		return &refusal{http.StatusBadRequest, "InvalidSignatureException", "The request signature we calculated does not match the signature you provided."}
	}
	return nil
}
