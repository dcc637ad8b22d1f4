{{- /* The template of a Pod that runs `mayfly serve`. Argument: root, component (server or log), log, config (its text). */ -}}
{{- define "mayfly.pod" -}}
{{- $root := .root -}}
{{- $v := .root.Values -}}
{{- $log := default dict .log -}}
{{- $fullname := include "mayfly.fullname" .root -}}
{{- $tls := ternary (default dict $log.tls).secretName $v.tls.secretName (eq .component "log") -}}
{{- $azure := or $v.workloadIdentity.azure.clientId $v.workloadIdentity.azure.tenantId -}}
metadata:
  annotations:
    # A change of mayfly.yaml needs a restart; issuers, the CA set and certificates do not.
    mayfly-ca.dev/config-sha256: {{ sha256sum .config }}
    kubectl.kubernetes.io/default-container: mayfly
    {{- with $v.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "mayfly.selector" . | nindent 4 }}
    mayfly-ca.dev/ops: "true"
    {{- if $azure }}
    azure.workload.identity/use: "true"
    {{- end }}
    {{- with merge (dict) $v.podLabels $v.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "mayfly.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "mayfly.terminationGracePeriod" $root }}
  {{- with include "mayfly.podCommon" (dict "root" $root) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with include "mayfly.placement" . | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if $v.signer.enabled }}
  initContainers: # with restartPolicy: a side container, which starts before the server and stops after it
    - name: signer
      restartPolicy: Always
      image: {{ include "mayfly.image" $root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args:
        - signer
        - --set=/etc/mayfly/ca/ca.yaml
        - --socket=/run/mayfly-signer/d/s
        - --allow-user=65532
        - --ops=:{{ int $v.signer.port }}
        - --log-level={{ $v.signer.logLevel }}
        {{- with $v.signer.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with include "mayfly.env" (dict "root" $root "keys" true "extra" $v.signer.extraEnv) }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      ports: [{name: signer, containerPort: {{ int $v.signer.port }}}]
      startupProbe: {httpGet: {path: /livez, port: signer}, periodSeconds: 1, failureThreshold: 60}
      livenessProbe: {httpGet: {path: /livez, port: signer}, periodSeconds: 10, timeoutSeconds: 3}
      resources:
        {{- toYaml $v.signer.resources | nindent 8 }}
      securityContext:
        runAsUser: {{ int64 $v.signer.uid }}
        {{- include "mayfly.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: ca-signer, mountPath: /etc/mayfly/ca, readOnly: true}
        - {name: signer-socket, mountPath: /run/mayfly-signer}
        {{- with include "mayfly.keyMounts" $root | trim }}{{ . | nindent 8 }}{{ end }}
        - {name: tmp-signer, mountPath: /tmp} # the server must not write into files of the signer
        {{- with include "mayfly.extraMounts" (dict "Values" $v "mounts" $v.signer.extraVolumeMounts) | trim }}{{ . | nindent 8 }}{{ end }}
  {{- end }}
  containers:
    - name: mayfly
      image: {{ include "mayfly.image" $root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: [serve, --config, /etc/mayfly/mayfly.yaml]
      {{- with include "mayfly.env" (dict "root" $root "keys" (not $v.signer.enabled) "extra" $v.extraEnv) }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      {{- with $v.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: http, containerPort: {{ int $v.ports.http }}}
        {{- if ne (int $v.ports.http) (int $v.ports.grpc) }}
        - {name: grpc, containerPort: {{ int $v.ports.grpc }}}
        {{- end }}
        - {name: ops, containerPort: {{ int $v.ports.ops }}}
      startupProbe:
        httpGet: {path: /livez, port: ops}
        {{- toYaml $v.startupProbe | nindent 8 }}
      livenessProbe:
        httpGet: {path: /livez, port: ops}
        {{- toYaml $v.livenessProbe | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: ops}
        {{- toYaml $v.readinessProbe | nindent 8 }}
      resources:
        {{- toYaml (default $v.resources $log.resources) | nindent 8 }}
      securityContext:
        {{- include "mayfly.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/mayfly, readOnly: true}
        - {name: ca, mountPath: /etc/mayfly/ca, readOnly: true}
        {{- if not $v.signer.enabled }}
        {{- with include "mayfly.keyMounts" $root | trim }}{{ . | nindent 8 }}{{ end }}
        {{- else }}
        - {name: signer-socket, mountPath: /run/mayfly-signer, readOnly: true}
        {{- end }}
        {{- if include "mayfly.ctSources" . }}
        - {name: ct, mountPath: /etc/mayfly/ct, readOnly: true}
        {{- end }}
        {{- if $tls }}
        - {name: tls, mountPath: /etc/mayfly/tls, readOnly: true}
        {{- end }}
        {{- if eq .component "log" }}
        - {name: log, mountPath: /var/lib/mayfly/ctlog}
        - {name: guard, mountPath: /var/lib/mayfly/guard}
        {{- else if $v.audit.enabled }}
        - {name: audit, mountPath: /var/lib/mayfly}
        {{- if $v.audit.hmacSecret }}
        - {name: audit-hmac, mountPath: /etc/mayfly/audit-hmac, readOnly: true}
        {{- end }}
        {{- end }}
        {{- if $v.kubernetesIssuer.enabled }}
        - {name: kubernetes-issuer, mountPath: /var/run/secrets/mayfly-issuer, readOnly: true}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
        {{- with include "mayfly.extraMounts" (dict "Values" $v "mounts" $v.extraVolumeMounts) | trim }}{{ . | nindent 8 }}{{ end }}
  volumes:
    - name: config
      projected:
        defaultMode: 0440
        sources:
          - configMap: {name: {{ $fullname }}{{ with .log }}-log-{{ .name }}{{ end }}}
          - configMap:
              name: {{ include "mayfly.issuersConfigMap" $root }}
              items: [{key: {{ $v.issuers.key }}, path: issuers.yaml}]
    {{- if $v.signer.enabled }}
    - name: ca # without keys
      projected:
        defaultMode: 0440
        sources:
          - configMap: {name: {{ include "mayfly.caConfigMap" $root }}}
    {{- end }}
    - name: {{ ternary "ca-signer" "ca" $v.signer.enabled }}
      projected:
        defaultMode: 0440
        sources:
          - configMap: {name: {{ include "mayfly.caConfigMap" $root }}}
          {{- if eq $v.ca.keys.from "secret" }}
          - secret: {name: {{ include "mayfly.caSecret" $root }}}
          {{- end }}
    {{- if eq $v.ca.keys.from "csi" }}
    - name: ca-keys
      csi:
        {{- toYaml $v.ca.keys.csi | nindent 8 }}
    {{- end }}
    {{- if $v.signer.enabled }}
    - name: signer-socket
      emptyDir: {medium: Memory, sizeLimit: 1Mi}
    - name: tmp-signer
      emptyDir: {sizeLimit: 64Mi}
    {{- end }}
    {{- with include "mayfly.ctSources" . }}
    - name: ct
      projected:
        defaultMode: 0440
        sources:
          {{- trim . | nindent 10 }}
    {{- end }}
    {{- with $tls }}
    - name: tls
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- if eq .component "log" }}
    {{- with include "mayfly.logVolumes" . | trim }}{{ . | nindent 4 }}{{ end }}
    {{- else if and $v.audit.enabled $v.audit.hmacSecret }}
    - name: audit-hmac
      secret: {secretName: {{ $v.audit.hmacSecret }}, defaultMode: 0440}
    {{- end }}
    {{- if $v.kubernetesIssuer.enabled }}
    - name: kubernetes-issuer
      projected:
        defaultMode: 0440
        sources:
          - serviceAccountToken: {path: token, expirationSeconds: 3600}
          - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    {{- end }}
    {{- with $v.caBundle.configMap }}
    - name: ca-bundle
      configMap: {name: {{ . }}, defaultMode: 0444}
    {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- with $v.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- /* What all Pods have, those of Jobs included. */ -}}
{{- define "mayfly.podCommon" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- $restricted := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") }}
  {{- toYaml (merge $restricted .root.Values.podSecurityContext) | nindent 2 }}
{{- end -}}

{{- /* The nodes of a Pod. Argument: root, component, log. */ -}}
{{- define "mayfly.placement" -}}
{{- $v := .root.Values -}}
{{- $log := default dict .log -}}
{{- with default $v.nodeSelector $log.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $group := include "mayfly.selector" (dict "root" .root "component" .component) | fromYaml -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $group) -}}
{{- $affinity := default $v.affinity $log.affinity }}
{{- if $affinity }}
affinity:
  {{- toYaml $affinity | nindent 2 }}
{{- else if eq $v.antiAffinity "hard" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      {{- list $term | toYaml | nindent 6 }}
{{- else if eq $v.antiAffinity "soft" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      {{- list (dict "weight" 100 "podAffinityTerm" $term) | toYaml | nindent 6 }}
{{- end }}
{{- $spread := list (dict "maxSkew" 1 "topologyKey" "topology.kubernetes.io/zone" "whenUnsatisfiable" "ScheduleAnyway" "labelSelector" (dict "matchLabels" $group)) -}}
{{- if not (kindIs "invalid" $v.topologySpreadConstraints) }}{{ $spread = $v.topologySpreadConstraints }}{{ end -}}
{{- with $spread }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The files of /etc/mayfly/ct: public keys and tokens for replicas, the token of submitters for a log. */ -}}
{{- define "mayfly.ctSources" -}}
{{- $v := .root.Values -}}
{{- if eq .component "server" }}
{{- if or (include "mayfly.hasCTFiles" .root) (and (include "mayfly.lacksLog" .root) (not $v.ct.configMap)) }}
- configMap: {name: {{ include "mayfly.fullname" .root }}-ct}
{{- end }}
{{- with $v.ct.configMap }}
- configMap: {name: {{ . }}}
{{- end }}
{{- with $v.ct.secret }}
- secret: {name: {{ . }}}
{{- end }}
{{- range $v.embeddedLogs }}
{{- if and .publicKey (default dict .tls).caConfigMap }}
- configMap: {name: {{ .tls.caConfigMap }}, items: [{key: ca.crt, path: log-{{ .name }}-ca.crt}]}
{{- end }}
{{- end }}
{{- end }}
{{- if $v.embeddedLogs }}
- secret: {name: {{ include "mayfly.submitSecret" .root }}, items: [{key: token, path: submit.token}]}
{{- end }}
{{- end -}}

{{- define "mayfly.logVolumes" -}}
{{- $fullname := include "mayfly.fullname" .root -}}
- name: log
  persistentVolumeClaim: {claimName: {{ default (printf "%s-log-%s" $fullname .log.name) (default dict .log.storage).existingClaim }}}
- name: guard
  persistentVolumeClaim: {claimName: {{ default (printf "%s-log-%s-guard" $fullname .log.name) (default dict .log.guard).existingClaim }}}
{{- end -}}

{{- define "mayfly.keyMounts" -}}
{{- if eq .Values.ca.keys.from "csi" }}
- {name: ca-keys, mountPath: /etc/mayfly/ca-keys, readOnly: true}
{{- end }}
{{- end -}}

{{- define "mayfly.extraMounts" -}}
{{- if .Values.caBundle.configMap }}
- {name: ca-bundle, mountPath: /etc/ssl/mayfly, readOnly: true}
{{- end }}
{{- with .mounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Variables of a container. Argument: root, keys (whether the container uses the keys), extra. */ -}}
{{- define "mayfly.env" -}}
{{- $env := list -}}
{{- if .root.Values.caBundle.configMap -}}
{{- $env = append $env (dict "name" "SSL_CERT_DIR" "value" "/etc/ssl/certs:/etc/ssl/mayfly") -}}
{{- end -}}
{{- if and .keys .root.Values.workloadIdentity.azure.clientId -}}
{{- $env = append $env (dict "name" "AZURE_TOKEN_CREDENTIALS" "value" "WorkloadIdentityCredential") -}}
{{- end -}}
{{- with concat $env .extra }}{{ toYaml . }}{{ end -}}
{{- end -}}
