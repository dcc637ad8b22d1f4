{{- /* Refuses keys of config that the chart sets, and secrets. */ -}}
{{- define "mayfly.checkConfig" -}}
{{- $config := .Values.config -}}
{{- range $path, $instead := dict "issuers" "issuers" "ca" "ca" "listen.http" "ports.http" "listen.grpc" "ports.grpc" "listen.ops" "ports.ops" "tls.certificate" "tls.secretName" "tls.key" "tls.secretName" "audit.dir" "audit.enabled" "audit.hmac_key_file" "audit.hmacSecret" -}}
{{- $keys := splitList "." $path -}}
{{- $in := ternary $config (get $config (first $keys) | default dict) (eq (len $keys) 1) -}}
{{- if hasKey $in (last $keys) -}}
{{- fail (printf "config.%s is set by the chart; remove it, and set the value %s" $path $instead) -}}
{{- end -}}
{{- end -}}
{{- if and $config.audit (not .Values.audit.enabled) -}}
{{- fail "config.audit has an effect only with audit.enabled, which gives each replica a volume; set audit.enabled: true" -}}
{{- end -}}
{{- if and (eq (default "plain" (default dict $config.audit).identity) "hmac") (not .Values.audit.hmacSecret) -}}
{{- fail "config.audit.identity is hmac, which requires audit.hmacSecret: the Secret with the key hmac.key" -}}
{{- end -}}
{{- if contains "@" (toString (default "" (default dict $config.oidc).proxy)) -}}
{{- fail "config.oidc.proxy has a password, and the configuration is in a ConfigMap; set MAYFLY_OIDC_PROXY in extraEnv from a Secret" -}}
{{- end -}}
{{- range $name, $text := merge (dict "issuers.content" .Values.issuers.content "config" (toYaml $config)) .Values.ca.files .Values.ct.files -}}
{{- if contains "PRIVATE KEY-----" $text -}}
{{- fail (printf "%s has a private key, and would be in a ConfigMap; put keys into the Secret that ca.keys.secret names" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.issuers.content .Values.issuers.configMap -}}{{- fail "issuers.content and issuers.configMap exclude each other" -}}{{- end -}}
{{- if and .Values.ca.files .Values.ca.configMap -}}{{- fail "ca.files and ca.configMap exclude each other" -}}{{- end -}}
{{- if and .Values.ct.files .Values.ct.configMap -}}{{- fail "ct.files and ct.configMap exclude each other" -}}{{- end -}}
{{- if and (eq .Values.ca.keys.from "csi") (not .Values.ca.keys.csi) -}}{{- fail "ca.keys.from is csi, which requires ca.keys.csi: the volume" -}}{{- end -}}
{{- if and .Values.signer.enabled (eq (int .Values.signer.uid) 65532) -}}{{- fail "signer.uid is the server's user 65532; another user is required, so that the server cannot read the keys" -}}{{- end -}}
{{- if has (int .Values.ports.ops) (list (int .Values.ports.http) (int .Values.ports.grpc)) -}}{{- fail "ports.ops is also the port of an API; another port is required, since clients must not reach it" -}}{{- end -}}
{{- if and (ne (int .Values.ports.http) (int .Values.ports.grpc)) (eq (int .Values.service.httpPort) (int .Values.service.grpcPort)) -}}{{- fail "service.grpcPort is also service.httpPort; set another one, or the same ports.http and ports.grpc to serve both on one port" -}}{{- end -}}
{{- if and .Values.signer.enabled (has (int .Values.signer.port) (list (int .Values.ports.http) (int .Values.ports.grpc) (int .Values.ports.ops))) -}}{{- fail "signer.port is also one of ports; another port is required: the containers of a Pod share their ports" -}}{{- end -}}
{{- end -}}

{{- /* The configuration without what the chart adds for replicas or for a log. */ -}}
{{- define "mayfly.baseConfig" -}}
{{- include "mayfly.checkConfig" . -}}
{{- $config := deepCopy .Values.config -}}
{{- $ports := .Values.ports -}}
{{- $listen := dict "http" (printf ":%d" (int $ports.http)) "grpc" (printf ":%d" (int $ports.grpc)) "ops" (printf ":%d" (int $ports.ops)) -}}
{{- $_ := set $config "listen" (merge $listen (default dict $config.listen)) -}}
{{- $_ := set $config "issuers" "issuers.yaml" -}}
{{- $ca := dict "set" "ca/ca.yaml" -}}
{{- if .Values.signer.enabled }}{{ $_ := set $ca "signer_socket" "/run/mayfly-signer/d/s" }}{{ end -}}
{{- $_ := set $config "ca" $ca -}}
{{- if and .Values.host (not $config.public_url) }}{{ $_ := set $config "public_url" (printf "https://%s" .Values.host) }}{{ end -}}
{{- if .Values.kubernetesIssuer.enabled -}}
{{- $kubernetes := dict "ca_file" "/var/run/secrets/mayfly-issuer/ca.crt" "token_file" "/var/run/secrets/mayfly-issuer/token" -}}
{{- $oidc := default dict $config.oidc -}}
{{- $_ := set $config "oidc" (merge (dict "kubernetes" (merge (default dict $oidc.kubernetes) $kubernetes)) $oidc) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* mayfly.yaml of the replicas. */ -}}
{{- define "mayfly.serverConfig" -}}
{{- $config := include "mayfly.baseConfig" . | fromYaml -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $config "tls" (merge (dict "certificate" "tls/tls.crt" "key" "tls/tls.key") (default dict $config.tls)) -}}
{{- end -}}
{{- if .Values.audit.enabled -}}
{{- $audit := merge (dict "dir" "/var/lib/mayfly/audit") (default dict $config.audit) -}}
{{- if .Values.audit.hmacSecret }}{{ $_ := set $audit "hmac_key_file" "audit-hmac/hmac.key" }}{{ end -}}
{{- $_ := set $config "audit" $audit -}}
{{- end -}}
{{- $ct := default dict $config.ct -}}
{{- $logs := list -}}
{{- range .Values.embeddedLogs -}}
{{- if .publicKey -}}
{{- $log := dict "url" (include "mayfly.logURL" (dict "root" $ "log" .)) "public_key" (printf "ct/log-%s.pub" .name) "token_file" "ct/submit.token" -}}
{{- if (default dict .tls).caConfigMap }}{{ $_ := set $log "ca_file" (printf "ct/log-%s-ca.crt" .name) }}{{ end -}}
{{- with .activateAt }}{{ $_ := set $log "activate_at" . }}{{ end -}}
{{- with .retireAt }}{{ $_ := set $log "retire_at" . }}{{ end -}}
{{- $logs = append $logs $log -}}
{{- end -}}
{{- end -}}
{{- $logs = concat $logs (default list $ct.logs) -}}
{{- if and (empty $logs) (not $ct.disabled) -}}
{{- /* An address that no network has. Pods do not start until its key exists, so that logs are never missing by oversight. */ -}}
{{- $logs = list (dict "url" "https://log.invalid" "public_key" "ct/log.pub") -}}
{{- end -}}
{{- if $logs }}{{ $_ := set $ct "logs" $logs }}{{ end -}}
{{- $_ := set $config "ct" $ct -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "mayfly.logURL" -}}
{{- if .log.url -}}{{ .log.url }}
{{- else if .root.Values.host -}}https://{{ .root.Values.host }}/ctlog/{{ .log.name }}
{{- else -}}{{ fail (printf "embeddedLogs %q requires the value host, or url and origin: replicas submit to that address" .log.name) }}
{{- end -}}
{{- end -}}

{{- define "mayfly.logOrigin" -}}
{{- if .log.origin -}}{{ .log.origin }}
{{- else if .root.Values.host -}}{{ .root.Values.host }}/ctlog/{{ .log.name }}
{{- else -}}{{ fail (printf "embeddedLogs %q requires the value host, or url and origin: the origin names the log in checkpoints" .log.name) }}
{{- end -}}
{{- end -}}

{{- /* mayfly.yaml of a log's own Pod. Argument: root, log. */ -}}
{{- define "mayfly.logConfig" -}}
{{- $config := omit (include "mayfly.baseConfig" .root | fromYaml) "audit" "tls" "rate_limits" -}}
{{- $_ := unset $config.listen "proxy_protocol" -}}{{- /* replicas connect to it directly */ -}}
{{- $owned := dict "name" .log.name "origin" (include "mayfly.logOrigin" .) "dir" (printf "/var/lib/mayfly/ctlog/%s" .log.name) "guard" (printf "/var/lib/mayfly/guard/%s.json" .log.name) "key" (printf "/var/lib/mayfly/guard/%s.key" .log.name) "submit" (dict "token_file" "ct/submit.token") -}}
{{- range $key, $_ := default dict .log.config -}}
{{- if hasKey $owned $key -}}{{- fail (printf "embeddedLogs[].config.%s is set by the chart; remove it" $key) -}}{{- end -}}
{{- end -}}
{{- $_ := set $config "ct" (dict "logs" (list (dict "embedded" (merge $owned (default dict .log.config))))) -}}
{{- if (default dict .log.tls).secretName -}}
{{- $_ := set $config "tls" (dict "certificate" "tls/tls.crt" "key" "tls/tls.key") -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
